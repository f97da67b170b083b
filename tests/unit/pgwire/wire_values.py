"""Every message there is, with any values that it may have."""

from itertools import pairwise

from hypothesis import strategies as st

from pgwire import authentication, backend, copying, frontend, startup
from pgwire.backend import BackendMessage, Column, TransactionStatus
from pgwire.fields import Format
from pgwire.frontend import FrontendMessage, Target

INT16 = st.integers(-(2**15), 2**15 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
OID = st.integers(0, 2**32 - 1)
UINT16 = st.integers(0, 2**16 - 1)

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
NAME = TEXT.filter(bool)
DATA = st.binary(max_size=40)
VALUE = st.none() | DATA
VALUES = st.lists(VALUE, max_size=5).map(tuple)
FORMATS = st.lists(st.sampled_from(Format), max_size=5).map(tuple)
FORMAT = st.sampled_from(Format)
CANCEL_KEY = st.binary(min_size=4, max_size=256)
ERROR_FIELDS = st.dictionaries(st.characters(min_codepoint=1, max_codepoint=255), TEXT, max_size=8)
COLUMN = st.builds(Column, TEXT, OID, INT16, OID, INT16, INT32, FORMAT)

FRONTEND: dict[type, st.SearchStrategy[FrontendMessage]] = {
    frontend.AuthenticationResponse: st.builds(frontend.AuthenticationResponse, DATA),
    frontend.Bind: st.builds(frontend.Bind, TEXT, TEXT, FORMATS, VALUES, FORMATS),
    frontend.Close: st.builds(frontend.Close, st.sampled_from(Target), TEXT),
    frontend.Describe: st.builds(frontend.Describe, st.sampled_from(Target), TEXT),
    frontend.Execute: st.builds(frontend.Execute, TEXT, INT32),
    frontend.Flush: st.just(frontend.Flush()),
    frontend.FunctionCall: st.builds(frontend.FunctionCall, OID, FORMATS, VALUES, FORMAT),
    frontend.Parse: st.builds(frontend.Parse, TEXT, TEXT, st.lists(OID, max_size=5).map(tuple)),
    frontend.Query: st.builds(frontend.Query, TEXT),
    frontend.Sync: st.just(frontend.Sync()),
    frontend.Terminate: st.just(frontend.Terminate()),
    copying.CopyData: st.builds(copying.CopyData, DATA),
    copying.CopyDone: st.just(copying.CopyDone()),
    copying.CopyFail: st.builds(copying.CopyFail, TEXT),
}

BACKEND: dict[type, st.SearchStrategy[BackendMessage]] = {
    authentication.AuthenticationOk: st.just(authentication.AuthenticationOk()),
    authentication.AuthenticationKerberosV5: st.just(authentication.AuthenticationKerberosV5()),
    authentication.AuthenticationCleartextPassword: st.just(
        authentication.AuthenticationCleartextPassword()
    ),
    authentication.AuthenticationMd5Password: st.builds(
        authentication.AuthenticationMd5Password, st.binary(min_size=4, max_size=4)
    ),
    authentication.AuthenticationGss: st.just(authentication.AuthenticationGss()),
    authentication.AuthenticationGssContinue: st.builds(
        authentication.AuthenticationGssContinue, DATA
    ),
    authentication.AuthenticationSspi: st.just(authentication.AuthenticationSspi()),
    authentication.AuthenticationSasl: st.builds(
        authentication.AuthenticationSasl, st.lists(NAME, max_size=3).map(tuple)
    ),
    authentication.AuthenticationSaslContinue: st.builds(
        authentication.AuthenticationSaslContinue, DATA
    ),
    authentication.AuthenticationSaslFinal: st.builds(authentication.AuthenticationSaslFinal, DATA),
    backend.BackendKeyData: st.builds(backend.BackendKeyData, INT32, CANCEL_KEY),
    backend.BindComplete: st.just(backend.BindComplete()),
    backend.CloseComplete: st.just(backend.CloseComplete()),
    backend.CommandComplete: st.builds(backend.CommandComplete, TEXT),
    backend.DataRow: st.builds(backend.DataRow, VALUES),
    backend.EmptyQueryResponse: st.just(backend.EmptyQueryResponse()),
    backend.ErrorResponse: st.builds(backend.ErrorResponse, ERROR_FIELDS),
    backend.FunctionCallResponse: st.builds(backend.FunctionCallResponse, VALUE),
    backend.NegotiateProtocolVersion: st.builds(
        backend.NegotiateProtocolVersion, UINT16, UINT16, st.lists(TEXT, max_size=3).map(tuple)
    ),
    backend.NoData: st.just(backend.NoData()),
    backend.NoticeResponse: st.builds(backend.NoticeResponse, ERROR_FIELDS),
    backend.NotificationResponse: st.builds(backend.NotificationResponse, INT32, TEXT, TEXT),
    backend.ParameterDescription: st.builds(
        backend.ParameterDescription, st.lists(OID, max_size=5).map(tuple)
    ),
    backend.ParameterStatus: st.builds(backend.ParameterStatus, TEXT, TEXT),
    backend.ParseComplete: st.just(backend.ParseComplete()),
    backend.PortalSuspended: st.just(backend.PortalSuspended()),
    backend.ReadyForQuery: st.builds(backend.ReadyForQuery, st.sampled_from(TransactionStatus)),
    backend.RowDescription: st.builds(
        backend.RowDescription, st.lists(COLUMN, max_size=4).map(tuple)
    ),
    copying.CopyBothResponse: st.builds(copying.CopyBothResponse, FORMAT, FORMATS),
    copying.CopyData: st.builds(copying.CopyData, DATA),
    copying.CopyDone: st.just(copying.CopyDone()),
    copying.CopyInResponse: st.builds(copying.CopyInResponse, FORMAT, FORMATS),
    copying.CopyOutResponse: st.builds(copying.CopyOutResponse, FORMAT, FORMATS),
}

STARTUP: st.SearchStrategy[startup.StartupPacket] = st.one_of(
    st.just(startup.SslRequest()),
    st.just(startup.GssRequest()),
    st.builds(startup.CancelRequest, INT32, CANCEL_KEY),
    st.builds(
        startup.StartupMessage,
        st.just(startup.MAJOR),
        UINT16,
        st.dictionaries(NAME, TEXT, max_size=5),
    ),
)

ANY_FRONTEND = st.one_of(*FRONTEND.values())
ANY_BACKEND = st.one_of(*BACKEND.values())


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The stream in pieces, cut at these places modulo its length."""
    edges = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    return [stream[start:end] for start, end in pairwise(edges)]


PLACES = st.lists(st.integers(0, 2**16), max_size=12)
