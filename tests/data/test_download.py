"""Downloads from a server on this machine: parallel, resumable, whole or not at all."""

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prep_clips import moving_gif
from typer.testing import CliRunner

from theseus_core.data.download import DROPPED, download
from theseus_core.errors import TheseusError


class Server:
    """Answers by path, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.busy = True
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rsplit("/", 1)[-1]
                server.asked[name] += 1
                status, body, length = server.answer(name)
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/media"

    def answer(self, name: str) -> tuple[int, bytes, int]:
        whole = moving_gif(4, len(name) + ord(name[0]))
        if name == "gone.gif":
            return 404, b"", 0
        if name == "page.gif":
            return 200, b"<html>", 6
        if name == "still.gif":
            body = moving_gif(1)
            return 200, body, len(body)
        if name == "cut.gif":
            return 200, whole[:-30], len(whole) if self.busy else len(whole) - 30
        if name == "busy.gif" and self.busy:
            return 503, b"", 0
        return 200, whole, len(whole)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    served = Server()
    thread = threading.Thread(target=served.http.serve_forever, daemon=True)
    thread.start()
    yield served
    served.http.shutdown()
    served.http.server_close()
    thread.join()


NAMES = ("a.gif", "bb.gif", "ccc.gif", "gone.gif", "page.gif", "still.gif", "cut.gif", "busy.gif")


def test_what_can_be_used_is_kept_and_what_cannot_is_remembered(server: Server, tmp_path: Path) -> None:
    urls = {name: f"{server.url}/{name}" for name in NAMES} | {"local.gif": "file:///etc/hostname"}
    (tmp_path / "gifs").mkdir()
    (tmp_path / "gifs" / "a.gif").write_bytes(b"mine")
    steps: list[tuple[int, int]] = []
    first = download(urls, tmp_path / "gifs", workers=3, progress=lambda *step: steps.append(step))
    assert (first.wanted, first.there, first.fetched) == (9, 1, 2)
    assert first.dropped == {"a still": 1, "no GIF": 1, "not a link of the web": 1, "the server answers 404": 1}
    assert first.failed == {"no answer: IncompleteRead": 1, "the server answers 503": 1}
    assert steps == [(done, 8) for done in range(1, 9)]
    assert {path.name for path in (tmp_path / "gifs").iterdir()} == {"a.gif", "bb.gif", "ccc.gif", DROPPED}
    assert (tmp_path / "gifs" / "a.gif").read_bytes() == b"mine"
    assert (tmp_path / "gifs" / "bb.gif").read_bytes() == server.answer("bb.gif")[1]

    server.busy = False
    second = download(urls, tmp_path / "gifs")
    assert (second.there, second.fetched, second.failed) == (3, 1, {})
    assert second.dropped == first.dropped | {"damaged": 1}
    assert (tmp_path / "gifs" / "busy.gif").exists()
    assert server.asked == dict.fromkeys(NAMES[1:], 1) | {"cut.gif": 2, "busy.gif": 2}


def test_an_interrupt_leaves_whole_files_only_and_the_next_start_goes_on(server: Server, tmp_path: Path) -> None:
    urls = {f"{number}.gif": f"{server.url}/{number}.gif" for number in range(30)}

    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(urls, tmp_path, workers=2, progress=interrupt)
    there = list(tmp_path.glob("*.gif"))
    assert 5 <= len(there) < 30
    assert not list(tmp_path.glob(".*"))
    assert download(urls, tmp_path).fetched == 30 - len(there)
    assert max(server.asked.values()) == 1


def test_no_server_is_tried_again(tmp_path: Path) -> None:
    done = download({"a.gif": "http://127.0.0.1:9/a.gif"}, tmp_path, timeout=5)
    assert (done.fetched, done.dropped, sum(done.failed.values())) == (0, {}, 1)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(TheseusError, match="cannot write to"):
        download({}, tmp_path / "file" / "gifs")


def test_from_the_command_line(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from theseus_cli.main import app

    monkeypatch.chdir(tmp_path)
    Path("tgif.tsv").write_text("".join(f"{server.url}/{name}\ta caption of {name}\n" for name in NAMES))
    words = "prep tgif.tsv --download --size 16 --min-frames 3 --max-frames 9 --workers 1"
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert "3 of 8 GIFs downloaded, 0 were there: gifs" in said
    assert "3 cannot be used, and are not asked for again" in said
    assert "2 could not be fetched this time" in said
    assert "missing 5" in said
    assert "3 clips, 12 frames" in said


def test_only_the_files_that_a_limit_draws_are_fetched(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from theseus_cli.main import app

    monkeypatch.chdir(tmp_path)
    names = [*NAMES[:3], *(f"{letter}.gif" for letter in "defghi")]
    Path("tgif.tsv").write_text("".join(f"{server.url}/{name}\ta caption of {name}\n" for name in names))
    words = "prep tgif.tsv --download --limit 4 --seed 3 --size 16 --min-frames 3 --max-frames 9 --workers 1"
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 0, result.output
    assert sum(server.asked.values()) == len(server.asked) == 4
    assert "4 of 4 GIFs downloaded" in " ".join(result.stderr.split())
    assert Path("dataset/rejected.jsonl").read_text().count("missing") == 0
