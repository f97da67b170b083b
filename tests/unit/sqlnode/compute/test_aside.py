"""What lives leave behind in a run directory."""

from pathlib import Path

from sqlnode.compute.aside import delete_aside, empty_aside, put_aside, spare_files
from sqlnode.datadir import ComputeDir


def life_in(run_dir: Path) -> ComputeDir:
    """A directory with a little of everything that a life has."""
    paths = ComputeDir(run_dir)
    for name in ("base/5/1259", "base/5/1249", "global/1262", "pg_wal/000000010000000000000001"):
        path = paths.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100)
    (paths.data / "PG_VERSION").write_text("15")
    paths.block_map.write_bytes(b"map")
    return paths


def test_life_that_is_put_aside_makes_room_for_the_next_two(tmp_path: Path) -> None:
    for life in (1, 2):
        paths = life_in(tmp_path)
        put_aside(paths, life)
        assert not paths.data.exists()
        assert not paths.block_map.exists()
    assert len(spare_files(tmp_path)) == 6
    put_aside(ComputeDir(tmp_path), 3)  # nothing is there


def test_what_an_agent_leaves_is_empty_data_files_alone(tmp_path: Path) -> None:
    put_aside(life_in(tmp_path), 1)
    empty_aside(tmp_path)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.name for path in left) == ["1249", "1259", "1262"]
    assert not any(path.stat().st_size for path in left)
    assert sorted(spare_files(tmp_path)) == sorted(left)


def test_no_link_is_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("not ours")
    paths = life_in(tmp_path / "run")
    (paths.data / "base/5/link").symlink_to(precious / "file")
    (paths.data / "pg_tblspc").symlink_to(precious)
    put_aside(paths, 1)
    empty_aside(paths.root)
    delete_aside(paths.root)
    assert (precious / "file").read_text() == "not ours"
    assert list(paths.root.iterdir()) == []
