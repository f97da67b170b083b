"""One process of a gateway: its sockets, and who is let in. Everything of a client meets here.

    worker = Worker(settings, index=0)
    await worker.start()          listens; the topology is followed
    await worker.stop()           no new clients; sessions end between their transactions

Several workers share the port and nothing else. A cancel request comes to any of them: the number
in its key says whose it is, and a datagram takes it there.
"""

import asyncio
import os
import random
import secrets
import ssl
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from log_service.client import LogClient
from pgwire.scram import ScramVerifier, tls_server_end_point
from pgwire.server_handshake import Decision, Scram, ServerHandshake
from pgwire.startup import StartupMessage

from .admin import ADMIN_DATABASE, ADMIN_USER, AdminSession
from .cancels import Cancels
from .catalog_reader import USER_TIMEOUT_MS, CatalogAwayError, CatalogReader
from .classification.catalog import Catalog
from .classification.classifier import Classifier
from .client import ClientConnection, LoginRefusedError
from .colleagues import Colleagues
from .counts import Counts
from .desk import Desk
from .link import Link
from .logins import Login, PoolKey
from .pool import Pool, Pools
from .position_watch import PositionWatch
from .prepared import Serials
from .reading import READ_VARIABLE, ReadMode, parse_read_mode
from .session import Session
from .settings import ClientTlsFiles, GatewaySettings, PoolMode
from .startup import Startup, startup_of
from .tables import Tables
from .topology import ComputesView, Target, TopologyWatch, log_tls, upstream_context
from .upstream import LinkConnection, cancel, open_link, refusal
from .users import User
from .wake import Waker
from .wire import error_frame

TICK_S: Final = 0.05  # while somebody waits
IDLE_TICK_S: Final = 1.0
SLEEP_LOOK_MS: Final = 200  # how late a client that waits notices that there is no compute
BACKLOG: Final = 1_024  # connections that the kernel holds: a thundering herd after a failover

log = structlog.get_logger()


class Worker:
    """One process."""

    def __init__(self, settings: GatewaySettings, *, index: int) -> None:
        self.settings = settings
        self.index = index
        self.client_tls: ssl.SSLContext | None = None
        self.clients: set[ClientConnection] = set()
        self.logins = 0
        self.counts = Counts()
        self._binding: bytes | None = None
        self._rng = random.Random(secrets.token_bytes(16))  # noqa: S311  # spreads retries
        self._mock_secret = secrets.token_bytes(32)
        self.cancels = Cancels(settings, index)
        self.tables = Tables(self)
        self.colleagues = Colleagues(settings, index, self.tables, self._rng)
        self._per_user: dict[str, int] = {}
        self._per_database: dict[str, int] = {}
        self._classifiers: dict[str, Classifier] = {}
        self._shared_serials = Serials()
        self._tasks: set[asyncio.Task[None]] = set()
        self._upstream_tls = upstream_context(settings.upstream_tls)
        self._admin_verifier = _admin_verifier(settings)
        self._server: asyncio.Server | None = None
        self._waker = Waker(settings.run_dir)
        self.is_stopping = False
        self._log: LogClient | None = None
        self.load_tls()

    # --- Life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, and follow the branch."""
        loop = asyncio.get_running_loop()
        settings = self.settings
        self._log = LogClient(settings.log_nodes, rng=self._rng, tls=log_tls(settings))
        self.pools = Pools(self, settings.limits, workers=settings.workers, now_s=loop.time)
        self.watch = PositionWatch(password=settings.role_password, tls=self._upstream_tls)
        self.reader = CatalogReader(
            password=settings.role_password, tls=self._upstream_tls, on_catalog=self._learned
        )
        self.topology = TopologyWatch(
            self._log, settings.branch, settings.log_nodes, rng=self._rng, on_change=self._follow
        )
        self._spawn(self.topology.run())
        self._spawn(self._tick())
        self.cancels.listen(self._cancel)
        await self.colleagues.listen()
        address = settings.listen_address
        self._server = await loop.create_server(
            lambda: ClientConnection(self),
            address.host,
            address.port,
            reuse_port=settings.workers > 1,
            backlog=BACKLOG,
        )

    async def stop(self) -> None:
        """Take no more clients; wait for transactions, but not for ever."""
        self.is_stopping = True
        if self._server is not None:
            self._server.close()
        await self.colleagues.close()  # first: whoever is started in our place needs its socket
        await self._waker.close()
        for client in list(self.clients):
            if client.session is None:
                client.abort()
            else:
                client.session.leave()
        deadline_s = asyncio.get_running_loop().time() + self.settings.limits.shutdown_ms / 1000
        while self.clients and self.now_s() < deadline_s:  # noqa: ASYNC110  # or the limit
            await asyncio.sleep(TICK_S)
        for client in list(self.clients):
            client.abort()
        for link in list(self.pools.links):
            link.wire.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.reader.close()
        await self.watch.close()
        if self._log is not None:
            await self._log.close()
        self.cancels.close()

    def reload(self, settings: GatewaySettings) -> None:
        """Take new settings for whoever comes from now on; where we listen stays."""
        self.settings = settings
        self.pools.limits = settings.limits
        self._admin_verifier = _admin_verifier(settings)
        self.load_tls()

    def load_tls(self) -> None:
        """Read certificates, at the start and when they were renewed."""
        files = self.settings.client_tls
        if files is not None:
            self.client_tls, self._binding = _client_tls(files)

    def now_s(self) -> float:
        """Return the time of the loop."""
        return asyncio.get_running_loop().time()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task of the gateway failed", exc_info=task.exception())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S if self.pools.waiters else IDLE_TICK_S)
            self.pools.tick()
            self._waker.tick(self.settings)
            if self.settings.limits.idle_client_ms:
                self._end_idle()

    def _end_idle(self) -> None:
        """Close clients that have been at rest for too long. Who asks the kernel needs no clock."""
        limit_ms = self.settings.limits.idle_client_ms
        for client in list(self.clients):
            session = client.session
            if isinstance(session, Session) and session.requests.is_resting:
                heard_ms = client.heard_ms_ago()
                if heard_ms is not None and heard_ms > limit_ms:
                    session.refused("57P05", f"the client was idle for {limit_ms / 1000:g} s")

    def _follow(self, view: ComputesView) -> None:
        self.watch.follow(view)
        self.reader.follow(view)
        self.pools.follow(view)
        self._waker.follow(view)

    # --- Who is let in --------------------------------------------------------------------------

    async def admit(
        self, client: ClientConnection, message: StartupMessage, *, is_encrypted: bool
    ) -> Decision:
        """Return what a client has to show; LoginRefusedError: nothing would do."""
        startup = startup_of(message)
        client.user, client.database = startup.user, startup.database
        client.application = startup.application
        tls = self.settings.client_tls
        if tls is not None and tls.require and not is_encrypted:
            raise LoginRefusedError(
                "28000", "connections must be encrypted", "Use sslmode=require."
            )
        self._check_limits(startup)
        if startup.database == ADMIN_DATABASE and startup.user == ADMIN_USER:
            if self._admin_verifier is None:
                raise LoginRefusedError("28000", f"nobody may read database {ADMIN_DATABASE} here")
            return Scram(self._admin_verifier, self._binding if is_encrypted else None)
        if startup.is_replication:
            raise LoginRefusedError(
                "0A000", "the gateway does not pass replication on",
                "Connect to the primary itself.",
            )  # fmt: skip
        user = await self._user(startup.user)
        if user is not None:
            client.settings = user.settings_of(startup.database)
            client.settings_digest = user.settings_digest
        self._check_certificate(client, startup)
        binding = self._binding if is_encrypted else None
        return Scram(self._verifier(user, startup.user), binding)

    async def _user(self, name: str) -> User | None:
        """Return a user. For one that is not known, a branch that sleeps is woken."""
        until_s = self.now_s() + USER_TIMEOUT_MS / 1000
        while True:
            if self.pools.view.is_asleep and not self.reader.knows(name):
                await self._waker.until_awake(self.settings)
                until_s = self.now_s() + USER_TIMEOUT_MS / 1000
            try:
                return await self.reader.user(name, timeout_ms=SLEEP_LOOK_MS)
            except CatalogAwayError:
                if self.now_s() >= until_s and not self.pools.view.is_asleep:
                    raise

    def _check_limits(self, startup: Startup) -> None:
        limits, workers = self.settings.limits, self.settings.workers
        if self.is_stopping:
            raise LoginRefusedError("57P03", "the gateway is shutting down", "Connect again.")
        others = len(self.clients) - 1  # this one is among them
        for count, limit, what in (
            (others, limits.clients, "clients"),
            (self._per_user.get(startup.user, 0), limits.clients_per_user, "clients of this user"),
            (self._per_database.get(startup.database, 0), limits.clients_per_database,
             "clients of this database"),
        ):  # fmt: skip
            if count >= max(1, limit // workers):
                self.counts.clients_refused += 1
                raise LoginRefusedError("53300", f"there are too many {what} already")

    def _check_certificate(self, client: ClientConnection, startup: Startup) -> None:
        tls = self.settings.client_tls
        if tls is None or not tls.require_client_certificate:
            return
        certificate = client.peer_certificate()
        subject = certificate.get("subject", ()) if certificate else ()
        names = [value for part in subject for key, value in part if key == "commonName"]
        if names != [startup.user]:
            raise LoginRefusedError(
                "28000", f'a client certificate for user "{startup.user}" is required',
                "Give sslcert and sslkey.",
            )  # fmt: skip

    def _verifier(self, user: User | None, name: str) -> ScramVerifier:
        """Return a user's verifier; who cannot come in hears it at the end, as if it were wrong."""
        if user is None or user.verifier is None or user.is_expired(time.time()):
            return ScramVerifier.mock(name, self._mock_secret)
        return user.verifier

    async def enter(
        self, client: ClientConnection, handshake: ServerHandshake
    ) -> tuple[Session | AdminSession, list[tuple[str, str]]]:
        """Return the session of a client that has proven itself, and what its server reports."""
        startup = startup_of(handshake.startup)
        self._count(client)
        if startup.database == ADMIN_DATABASE and startup.user == ADMIN_USER:
            return AdminSession(client, self), AdminSession.parameters()
        key = PoolKey(
            startup.user, startup.database, startup.pool_parameters, client.settings_digest
        )
        login = Login(key, handshake.keys)
        parameters = self.pools.welcome(key)
        if parameters is None:
            parameters = await self._first_login(login)
        read_mode = self._read_mode(client, startup)
        desk = Desk(self.pools, self.watch, login, read_wait_ms=self.settings.limits.read_wait_ms)
        mode = self.settings.pool_mode_of(startup.user, startup.database)
        is_pooled = mode is PoolMode.TRANSACTION
        self.reader.use(startup.database)
        session = Session(
            client,
            desk,
            classifier=self._classifier(startup.database),
            serials=self._shared_serials if is_pooled else Serials(),
            limits=self.settings.limits,
            read_mode=read_mode,
            counts=self.counts,
            is_pooled=is_pooled,
        )
        desk.session = session
        for name, value in parameters.items():
            session.told(name.encode(), value.encode())
        self.logins += 1
        return session, list(parameters.items())

    def _read_mode(self, client: ClientConnection, startup: Startup) -> ReadMode:
        """Return what `seawall.read` is: as the client says, its role, or the gateway."""
        text = startup.read
        if text is None:
            text = client.settings.get(READ_VARIABLE)
        if text is None:
            return self.settings.read_mode
        try:
            return parse_read_mode(text)
        except ValueError as error:
            raise LoginRefusedError("22023", str(error)) from None

    async def _first_login(self, login: Login) -> Mapping[str, str]:
        visitor = _Visitor(login, self.pools)
        link = self.pools.acquire(visitor, replica=None)
        if link is None:
            try:
                link = await visitor.link
            finally:
                self.pools.forget(visitor)
        self.pools.give_back(link, is_clean=True)
        return link.parameters

    def _classifier(self, database: str) -> Classifier:
        classifier = self._classifiers.get(database)
        if classifier is None:
            classifier = self._classifiers[database] = Classifier(self.reader.catalog(database))
        return classifier

    def _learned(self, database: str, catalog: Catalog) -> None:
        """Take a new catalog: sessions that are there use it from their next statement on."""
        classifier = self._classifiers[database] = Classifier(catalog)
        for client in self.clients:
            if client.database == database and isinstance(client.session, Session):
                client.session.requests.classify = classifier.classify

    def _count(self, client: ClientConnection) -> None:
        client.is_counted = True
        self._per_user[client.user] = self._per_user.get(client.user, 0) + 1
        self._per_database[client.database] = self._per_database.get(client.database, 0) + 1

    def gone(self, client: ClientConnection) -> None:
        """Forget a client."""
        self.clients.discard(client)
        self.cancels.forget(client)
        if client.is_counted:
            client.is_counted = False
            _count_down(self._per_user, client.user)
            _count_down(self._per_database, client.database)
            if isinstance(client.session, Session):
                self.reader.leave(client.database)

    # --- Connector ------------------------------------------------------------------------------

    def connect(self, pool: Pool, target: Target, login: Login) -> None:
        """Open a link."""
        self._spawn(self._connect(pool, target, login))

    async def _connect(self, pool: Pool, target: Target, login: Login) -> None:
        try:
            link = await open_link(pool, target, login, self._upstream_tls, self._link_ended)
        except Exception as error:  # noqa: BLE001  # whatever it was, it is the pool's affair
            sqlstate, frame = refusal(error)
            self.pools.failed(pool, target, sqlstate, frame)
            return
        self.pools.connected(pool, link)

    def _link_ended(self, connection: LinkConnection) -> None:
        link = connection.link
        if link is None or link.is_closed:
            return
        owner, link.owner = link.owner, None
        self.pools.closed(link)
        if isinstance(owner, Session):
            owner.lost(link)
        if link.is_primary:
            self.topology.look_now()

    def wake(self) -> None:
        """Ask for a compute."""
        self._waker.wake(self.settings)

    def pause_links(self, client: ClientConnection, *, is_paused: bool) -> None:
        """Read from a client's servers no faster than it takes the answers."""
        session = client.session
        if isinstance(session, Session):
            for link in (session.links.primary, session.links.replica):
                if link is not None and isinstance(link.wire, LinkConnection):
                    if is_paused:
                        link.wire.pause_reading()
                    else:
                        link.wire.resume_reading()

    def _cancel(self, client: ClientConnection) -> None:
        """End what a client has begun."""
        if isinstance(client.session, Session):
            link = client.session.cancellable
            if link is not None:
                self._spawn(self._pass_cancel_on(link))

    async def _pass_cancel_on(self, link: Link) -> None:
        """Ask a link's server to end what it does."""
        view = self.pools.view
        targets = (*view.replicas, *(() if view.primary is None else (view.primary,)))
        target = next((one for one in targets if one.name == link.target_name), None)
        if target is None or not isinstance(link.wire, LinkConnection):
            return
        if link.wire.key is not None:
            await cancel(target, link.wire.key, self._upstream_tls)


class _Visitor:
    """Wants a link once, to see whether a login is good and what the server says of itself."""

    def __init__(self, login: Login, pools: Pools) -> None:
        self.login = login
        self._pools = pools
        self.link: asyncio.Future[Link] = asyncio.get_running_loop().create_future()

    def granted(self, link: Link) -> None:
        """Have it; or let it go at once, if the client has gone in this very moment."""
        if self.link.done():
            self._pools.give_back(link, is_clean=True)
        else:
            self.link.set_result(link)

    def not_granted(self) -> None:
        """Cannot be: the primary was asked for."""

    def timed_out(self, sqlstate: str, message: str, hint: str) -> None:
        """There was none in time."""
        self.farewell(error_frame(sqlstate, message, hint=hint, severity="FATAL"))

    def farewell(self, error: bytes) -> None:
        """There is none."""
        refused = LoginRefusedError("57P03", "no server")
        refused.frame = error
        if not self.link.done():
            self.link.set_exception(refused)


def _client_tls(files: ClientTlsFiles) -> tuple[ssl.SSLContext, bytes | None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.num_tickets = 0  # drivers do not resume, and a ticket is a write for each client
    context.load_cert_chain(files.certificate_file, files.key_file)
    if files.client_ca_file is not None:
        context.load_verify_locations(cafile=files.client_ca_file)
        context.verify_mode = ssl.CERT_OPTIONAL
        if files.require_client_certificate:
            context.verify_mode = ssl.CERT_REQUIRED
    text = Path(files.certificate_file).read_text(encoding="ascii")
    end = "-----END CERTIFICATE-----"
    der = ssl.PEM_cert_to_DER_cert(text[: text.index(end) + len(end)])
    return context, tls_server_end_point(der)


def _admin_verifier(settings: GatewaySettings) -> ScramVerifier | None:
    if settings.admin_password is None:
        return None
    return ScramVerifier.make(settings.admin_password, os.urandom)


def _count_down(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 1) - 1
    if counts[name] <= 0:
        del counts[name]
