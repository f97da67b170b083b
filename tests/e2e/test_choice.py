"""Which Kubernetes the tests take, when they are skipped, and that a rig has one user at a time.

No Kubernetes is needed: what is tested here is what the other tests of this folder stand on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from e2e import kubernetes
from e2e.kubernetes import KUBECONFIG, REGISTRY, REQUIRED, Given, chosen, unavailable, why_not
from e2e.operator_world import image
from e2e.rig import Rig, RigError, network, usage
from e2e.rig.records import Process, Records
from e2e.rig.usage import used

pytestmark = pytest.mark.e2e

TESTS = Path(__file__).parents[1]
HOLD = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from e2e.rig import usage
usage.USE = Path(sys.argv[2])
with usage.used():
    print("used", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (KUBECONFIG, REGISTRY, REQUIRED):
        monkeypatch.delenv(name, raising=False)


def test_rig_is_taken_unless_another_kubernetes_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert chosen() is None
    monkeypatch.setenv(KUBECONFIG, str(Rig().kubeconfig))
    assert chosen() is None
    monkeypatch.setenv(KUBECONFIG, str(tmp_path / "theirs"))
    assert chosen() == Given(tmp_path / "theirs")


def test_kubeconfig_alone_lets_nobody_loose_on_a_cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    assert "no file" in str(why_not(Given(theirs)))
    theirs.write_text("")
    assert REGISTRY in str(why_not(Given(theirs)))
    for registry in ("", "registry.example.com"):
        monkeypatch.setenv(REGISTRY, registry)
        assert why_not(Given(theirs)) is None


def test_images_are_pulled_from_the_registry_that_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert image("log").startswith("seawall/log:")
    monkeypatch.setenv(REGISTRY, "registry.example.com/team")
    assert image("compute").startswith("registry.example.com/team/seawall/compute:")


def test_what_cannot_run_is_skipped_unless_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pytest.skip.Exception, match="no Go"):
        unavailable("there is no Go")
    monkeypatch.setenv(REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match=f"no Go .*{REQUIRED}"):
        unavailable("there is no Go")


def test_rig_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 10001)
    assert "run it as root" in str(why_not(None))


def test_rig_has_one_user_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(usage, "USE", tmp_path / "use")
    words = [sys.executable, "-c", HOLD, str(TESTS), str(usage.USE)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "used\n"
        with pytest.raises(RigError, match=f"process {other.pid} uses the rig"), used():
            pass
        other.kill()
        other.wait()
        with used():
            assert usage.USE.read_text() == str(os.getpid())


def test_record_of_one_process_is_kept_by_another(tmp_path: Path) -> None:
    ours = Process.of(os.getpid())
    one = Records.read(tmp_path)
    one.ready = True
    one.write()
    one.add("node-1/kubelet", ours)
    another = Records.read(tmp_path)
    another.remove("node-1/kubelet")
    one.add("node-2/kubelet", ours)
    assert Records.read(tmp_path).processes == {"node-2/kubelet": ours}
    assert Records.read(tmp_path).ready


def test_rig_whose_end_was_interrupted_is_not_up(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    records = Records.read(rig.layout.state)
    records.ready = True
    records.write()
    assert not rig.running(), "no process of it is left"
    records.add("control/machine", Process.of(os.getpid()))
    assert rig.running()
    records.ready = False  # what its end begins with
    records.write()
    assert not rig.running()


def test_nothing_is_asked_of_a_rig_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(network, "HOST_LINK", "none-of-that-name")
    with pytest.raises(RigError, match="the rig is gone"):
        Rig(tmp_path).kubectl("get", "nodes")


def test_port_that_cannot_be_forwarded_is_an_error_with_the_reason() -> None:
    words = [sys.executable, "-c", "print('error: services \"pg\" not found')"]
    with (
        pytest.raises(RigError, match=r"services \"pg\" not found"),
        kubernetes.forwarded(words),
    ):
        pass
