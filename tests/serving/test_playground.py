"""The playground's endpoints: what a page is told of a model, what it may ask, and what it may not."""

import asyncio
import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

import primegpt
from primegpt.config import GenerateConfig, resolve, write_toml
from primegpt.data.template import SongTemplate
from primegpt.inference import logits as rules
from primegpt.run.folder import RunFolder
from primegpt.run.saving import save_checkpoint
from primegpt.serving import flow, lens
from primegpt.serving.playground import COLUMNS, STATIC, WRITERS, Playground
from primegpt.serving.security import Policy
from primegpt.serving.serve import PAGE, create_app, page_routes
from primegpt.serving.shelf import OPEN, Shelf
from primegpt.tokenizers.char import CharTokenizer

DOCS = Path(__file__).parents[2] / "docs"
LETTERS = "abcdefghijklmnopqrstuvwxyz <>/=\n"


@pytest.fixture
def folder(random_model, save_run):
    """A run of two checkpoints that writes letters, spaces and what markup is made of."""
    tokenizer = CharTokenizer.train([LETTERS])
    path = save_run(random_model(vocab_size=tokenizer.vocab_size), tokenizer, "river")
    later = random_model(vocab_size=tokenizer.vocab_size)
    with torch.no_grad():
        later.wte.weight.mul_(0.5)
    state = {"fingerprints": {"tokenizer": tokenizer.fingerprint}}
    save_checkpoint(path / "checkpoints", 20, {"model": later.weights()}, state, resumable=False)
    for step in (0, 20):
        RunFolder(path).append_metrics({"step": step, "val/loss": 3.0 - step / 20, "secret": "not for the page"})
    return path


def playground(folders, **options):
    """The application that `primegpt play` serves."""
    run = primegpt.load(folders[0], device="cpu")
    return create_app(run, routes=page_routes(folders)(run), **options)


@pytest.fixture
def client(folder):
    with TestClient(playground([folder]), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def run(folder):
    return primegpt.load(folder, device="cpu")


def written(response) -> list[dict]:
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def test_the_page_and_all_it_needs_come_from_here_and_are_small(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    ids = re.findall(r'\bid="([^"]+)"', page.text)
    assert len(ids) == len(set(ids))
    names = [path.name for path in STATIC.iterdir()]
    size = sum(len(client.get(f"/static/{name}").content) for name in names)
    assert size == sum((STATIC / name).stat().st_size for name in names)
    said = int(re.search(r"under (\d+) KB in all", (DOCS / "playground.md").read_text(encoding="utf-8"))[1])
    assert 0.9 * said < size / 1000 < said <= 250
    for name in re.findall(r'(?:src|href)="([^"#]+)"', page.text):
        assert client.get(f"/{name}").status_code == 200, name
    for name in names:
        text = (STATIC / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]|url\(", text), f"{name} names another place"
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(", text), name
        assert not re.search(r"<[^>]+ (?:style|on\w+)=", text), f"{name} has code or style within markup"
        for imported in re.findall(r'from "\./([^"]+)"', text):
            assert imported in names, f"{name} imports {imported}"


def test_what_the_page_is_told_of_a_run(client, run):
    (about,) = client.get("/play/runs").json()
    assert (about["name"], about["step"], about["steps"]) == ("river", 0, [0, 20])
    assert (about["n_layer"], about["n_head"], about["vocab_size"]) == (2, 4, run.tokenizer.vocab_size)
    assert about["genres"] == about["emotions"] == []
    assert about["banned"] == run.generator().banned.tolist()
    assert about["metrics"] == [{"step": 0, "val/loss": 3.0}, {"step": 20, "val/loss": 2.0}]
    assert about["training"] is False
    texts = client.get("/play/runs/0/vocabulary").json()
    assert texts == [run.tokenizer.decode([id]) for id in range(run.tokenizer.vocab_size)]


def test_progress_tells_what_is_new(client, folder):
    with RunFolder(folder).lock():
        RunFolder(folder).append_metrics({"step": 40, "train/loss": 1.0})
        news = client.get("/play/runs/0/progress?after=2").json()
    assert news["metrics"] == [{"step": 40, "train/loss": 1.0}]
    assert (news["rows"], news["training"]) == (3, True)
    (folder / ".lock.pid").write_text("1")  # a killed one leaves it behind
    assert client.get("/play/runs/0/progress").json()["training"] is False
    assert client.get("/play/runs/0/progress?after=-1").status_code == 400


def test_a_line_of_metrics_that_is_no_number_is_no_fault(client, folder):
    with (RunFolder(folder).metrics_path).open("a") as file:
        file.write('{"step": 60, "val/loss": NaN}\n')  # as another program, or an earlier version, may have written
    assert client.get("/play/runs/0/progress?after=2").json()["metrics"] == [{"step": 60, "val/loss": None}]
    assert client.get("/play/runs").status_code == 200


def test_a_prompt_in_ids_is_what_the_model_is_given(client, run):
    answer = client.post("/play/encode", json={"text": "the river"}).json()
    assert answer["ids"] == run.generator().encode("the river", run.settings())
    assert "knows no" in client.post("/play/encode", json={"text": "ж"}).json()["remarks"][0]


def test_next_gives_exactly_the_models_logits_of_the_step(client, run, folder):
    ids = run.tokenizer.encode("the river")
    for step in (0, 20):
        answer = client.post("/play/next", json={"ids": ids, "step": step}).json()
        found = np.frombuffer(base64.b64decode(answer["logits"]), "<f4")
        own = lens.next_logits(primegpt.load(folder, checkpoint=step, device="cpu").model, ids).numpy()
        assert answer["step"] == step
        assert np.array_equal(found, own)


def test_look_attention_lens_and_near_say_what_the_model_does(client, run):
    ids = run.tokenizer.encode("the river sings")
    looked = client.post("/play/look", json={"ids": ids}).json()
    logprobs, ranks = lens.token_logprobs(run.model, ids)
    assert looked["logprobs"][0] is None
    assert looked["logprobs"][1:] == pytest.approx(logprobs.tolist(), abs=1e-4)
    assert looked["ranks"] == [None, *ranks.tolist()]

    answer = client.post("/play/attention", json={"ids": ids, "layer": 1}).json()
    maps = np.frombuffer(base64.b64decode(answer["maps"]), np.uint8).reshape(4, len(ids), len(ids))
    assert (maps / 255) ** 2 == pytest.approx(lens.attention(run.model, ids, 1).numpy(), abs=0.005)

    said = client.post("/play/lens", json={"ids": ids}).json()
    values, found = lens.logit_lens(run.model, ids, 5, COLUMNS)
    assert said["ids"] == found.tolist()
    assert np.array(said["probabilities"]) == pytest.approx(values.numpy(), abs=1e-4)

    near = client.post("/play/near", json={"id": ids[0], "position": 3}).json()
    assert near["tokens"]["ids"] == lens.near_tokens(run.model, ids[0], 12)[1].tolist()
    assert near["positions"] == pytest.approx(lens.near_positions(run.model, 3).tolist(), abs=1e-4)


def numbers(packed: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed), "<f4")


@pytest.mark.parametrize("length", [1, 15, 100])
def test_the_flow_ends_in_the_logits_of_look_and_its_shares_add_up_to_them(client, run, length):
    ids = run.tokenizer.encode(("the river sings " * 9)[:length])
    every = torch.from_numpy(numbers(client.post("/play/next", json={"ids": ids}).json()["logits"]).copy())
    came = int(every.argmin())
    found = client.post("/play/flow", json={"ids": ids, "came": came}).json()
    assert found["candidates"] == [*every.topk(8).indices.tolist(), came]
    which = torch.tensor(found["candidates"])
    assert found["logits"] == pytest.approx(every[which].tolist(), abs=1e-4)
    assert found["probabilities"] == pytest.approx(every.softmax(-1)[which].tolist(), abs=1e-5)
    sums = np.array(found["shares"]).sum(0) + np.array(found["constant"])
    assert sums == pytest.approx(found["logits"], abs=2e-4)
    assert len(found["shares"]) == len(found["lengths"]) == 5  # the embedding, and two of each block
    assert found["guesses"]["candidates"][-1] == pytest.approx(found["probabilities"], abs=1e-5)
    assert found["guesses"]["ranks"][-1] == [*range(8), len(every) - 1]
    assert found["guesses"]["ids"][-1] == int(every.argmax())
    vectors = {name: numbers(packed) for name, packed in found["vectors"].items()}
    assert vectors["token"] + vectors["position"] == pytest.approx(vectors["embedding"], abs=1e-5)
    head = run.model.wte.weight.detach().numpy()[found["candidates"]]
    assert head @ vectors["normed"] == pytest.approx(found["logits"], abs=1e-4)


def test_a_block_tells_what_its_heads_and_its_mlp_do(client, run):
    ids = run.tokenizer.encode("the river sings")
    found = client.post("/play/block", json={"ids": ids, "layer": 1}).json()
    with torch.no_grad():
        trace = run.model.trace(torch.tensor([ids]))
    weights = numbers(found["weights"]).reshape(4, len(ids))
    assert weights == pytest.approx(trace.maps[1][0, :, -1].numpy(), abs=1e-5)
    vectors = {name: numbers(packed) for name, packed in found["vectors"].items()}
    assert vectors["before"] == pytest.approx(trace.hidden[1][0, -1].numpy(), abs=1e-4)
    assert vectors["after"] == pytest.approx(trace.hidden[2][0, -1].numpy(), abs=1e-4)
    assert sum(vectors[name] for name in ("before", "attention", "mlp")) == pytest.approx(vectors["after"], abs=1e-4)
    assert found["mlp"]["length"] == pytest.approx(np.linalg.norm(vectors["mlp"]), abs=1e-3)
    assert len(found["heads"]) == 4
    assert len(numbers(found["neurons"])) == run.model.config.mlp_size
    with torch.no_grad():  # what the MLP raises: by the shares of the flow, the last of whose parts it is
        own = flow.shares(run.model, torch.from_numpy(vectors["mlp"].copy())[None], trace.hidden[-1][0, -1])[0]
    assert found["mlp"]["pushes"]["ids"] == own.topk(4).indices.tolist()
    assert found["mlp"]["pushes"]["by"] == pytest.approx((own.topk(4).values - own.mean()).tolist(), abs=1e-3)


def test_writing_is_what_the_run_writes_with_the_same_settings(client, run):
    ids = run.tokenizer.encode("the river")
    settings = {"temperature": 0.8, "top_k": 12, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2, "seed": 7}
    lines = written(client.post("/play/write", json={"ids": ids, "max_new_tokens": 30, **settings}))
    (expected,) = run.complete(ids, max_new_tokens=30, logprobs=True, precision="fp32", **settings)
    assert [line["id"] for line in lines[:-1]] == expected.ids
    assert [line["logprob"] for line in lines[:-1]] == pytest.approx(expected.logprobs, abs=1e-3)
    assert lines[-1] == {"finish_reason": expected.finish_reason}


def test_writing_ends_at_a_stop_string(client, run):
    ids = run.tokenizer.encode("the river")
    (long,) = run.complete(ids, max_new_tokens=60, seed=3)
    stop = long.text[20:24]
    lines = written(
        client.post("/play/write", json={"ids": ids, "max_new_tokens": 60, "seed": 3, "stop_strings": [stop]})
    )
    (expected,) = run.complete(ids, max_new_tokens=60, seed=3, stop_strings=[stop])
    assert [line["id"] for line in lines[:-1]] == expected.ids
    assert lines[-1] == {"finish_reason": "stop"}


@pytest.mark.parametrize(
    ("name", "body", "told"),
    [
        ("next", {"ids": []}, "ids"),
        ("next", {"ids": [10**6]}, "vocabulary"),
        ("next", {"ids": [-1]}, "ids.0"),
        ("next", {"ids": [1], "path": "/etc/passwd"}, "path"),
        ("next", {"ids": [1], "step": "../../other"}, "step"),
        ("next", {"ids": [1], "step": 5}, "no checkpoint 5"),
        ("next", {"ids": [1], "run": 1}, "no run number 1"),
        ("next", {"ids": [1], "run": "river"}, "run"),
        ("next", '{"ids": [1], "step": NaN}', "step"),
        ("next", "{", "JSON"),
        ("next", [], "object"),
        ("look", {}, "ids"),
        ("attention", {"ids": [1], "layer": 2}, "layer 2 of 2"),
        ("block", {"ids": [1], "layer": 2}, "layer 2 of 2"),
        ("block", {"ids": [10**6]}, "vocabulary"),
        ("flow", {"ids": [1], "came": 10**6}, "vocabulary"),
        ("flow", {"ids": [1], "came": -1}, "came"),
        ("near", {"id": 10**6, "position": 0}, "vocabulary"),
        ("encode", {"text": "a", "genre": "rock"}, "not trained on instructions"),
        ("encode", {"text": 1}, "text"),
        ("write", '{"ids": [1], "temperature": NaN}', "temperature"),
        ("write", {"ids": [1], "temperature": -1}, "temperature"),
        ("write", {"ids": [1], "temperature": 1e9}, "temperature"),
        ("write", {"ids": [1], "top_p": 0}, "top_p"),
        ("write", {"ids": [1], "max_new_tokens": 10**9}, "max_new_tokens"),
        ("write", {"ids": [1], "seed": -1}, "seed"),
        ("write", {"ids": [1], "stop_strings": [""]}, "stop_strings"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(client, name, body, told):
    content = body if isinstance(body, str) else json.dumps(body)
    answer = client.post(f"/play/{name}", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    assert told in message
    assert "\n" not in message


def test_no_way_leads_out_of_the_pages_own_files(client, folder):
    for path in (
        "/static/../playground.py",
        "/static/%2e%2e/playground.py",
        "/static//etc/passwd",
        f"/static/{folder}",
    ):
        assert client.get(path).status_code == 404, path


def test_a_damaged_checkpoint_is_told_and_the_others_serve_on(client, folder):
    weights = folder / "checkpoints" / "step-000020" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "step-000020" in client.post("/play/next", json={"ids": [5], "step": 20}).json()["error"]["message"]
    assert client.post("/play/next", json={"ids": [5], "step": 0}).status_code == 200


def test_off_this_machine_the_page_is_open_and_the_run_is_not(folder):
    policy = Policy(token="a long secret token", public=("/health", *PAGE))
    with TestClient(playground([folder], policy=policy), base_url="http://127.0.0.1") as client:
        assert client.get("/").status_code == client.get("/static/app.js").status_code == 200
        for path in ("/play/runs", "/play/runs/0/vocabulary", "/v1/models"):
            assert client.get(path).status_code == 401, path
        assert client.post("/play/next", json={"ids": [5]}).status_code == 401
        opened = client.get("/play/runs", headers={"authorization": "Bearer a long secret token"})
        assert opened.status_code == 200


def test_the_run_stays_a_pages_own(client):
    assert (
        client.post("/play/next", json={"ids": [5]}, headers={"origin": "https://elsewhere.example"}).status_code == 403
    )
    assert client.get("/play/runs", headers={"host": "rebound.example"}).status_code == 403


def test_writing_ends_within_a_token_of_its_readers_leave_taking(folder, monkeypatch):
    desk = Playground(Shelf([folder], lambda path, step: primegpt.load(path, checkpoint=step, device="cpu")))
    steps = []
    decoder = type(desk.shelf.open(0).generator())
    original = decoder.next_ids
    monkeypatch.setattr(decoder, "next_ids", lambda *args, **more: steps.append(1) or original(*args, **more))

    class Asking:
        async def body(self):
            return json.dumps({"ids": [5], "max_new_tokens": 500}).encode()

    async def leave(after: int) -> None:
        sent, left = [], asyncio.Event()

        async def receive():
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message.get("body"))
            if len(sent) > after:
                left.set()

        response = await desk.write(Asking())
        assert desk.writers == 1
        await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
        await asyncio.sleep(0.05)

    for after in (0, 3):
        steps.clear()
        asyncio.run(leave(after))
        assert desk.writers == 0
        assert after <= len(steps) <= after + 2


def test_a_crowd_of_writers_is_refused(folder):
    desk = Playground(Shelf([folder], lambda path, step: primegpt.load(path, checkpoint=step, device="cpu")))
    desk.writers = WRITERS
    app = playground([folder])
    app.router.routes[:] = desk.routes()
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.post("/play/write", json={"ids": [5]}).status_code == 429


def test_the_shelf_keeps_the_models_that_were_used_last(folder):
    opened = []

    def load(path, step):
        opened.append(step)
        return SimpleNamespace(step=step)

    shelf = Shelf([folder], load)
    for step in [*range(OPEN), 0, OPEN, 0, 1]:
        shelf.open(0, step)
    assert opened == [*range(OPEN), OPEN, 1]  # 0 was used again before OPEN came, so 1 made room


def test_genres_and_emotions_are_those_of_the_tokenizer(random_model, save_run):
    tokenizer = CharTokenizer.train([LETTERS], special_tokens=SongTemplate.special_tokens)
    path = save_run(random_model(vocab_size=tokenizer.vocab_size), tokenizer, "songs")
    config = resolve({**primegpt.load(path).config.model_dump(), "data": {"template": "song"}})
    (path / "config.toml").write_text(write_toml(config), encoding="utf-8")
    with TestClient(playground([path]), base_url="http://127.0.0.1") as client:
        (about,) = client.get("/play/runs").json()
        assert about["genres"] == ["pop", "rap", "rock", "rb"]
        assert about["emotions"] == ["happy", "sad", "angry", "romantic"]
        for genre in about["genres"]:
            for emotion in about["emotions"]:
                asked = {"text": "a river", "genre": genre, "emotion": emotion}
                names = tokenizer.decode(client.post("/play/encode", json=asked).json()["ids"])
                assert f"<genre_{genre}>" in names
                assert f"<{emotion}>" in names


@pytest.mark.skipif(not shutil.which("node"), reason="needs node")
def test_the_pages_rules_keep_and_weigh_what_the_servers_rules_do(tmp_path):
    random = np.random.default_rng(0)
    cases = []
    for case in range(300):
        size = int(random.integers(1, 60))
        settings = {
            "temperature": float(random.choice([0, 0.3, 0.9, 1, 1.7])),
            "top_k": int(random.choice([0, 1, 5, 40])),
            "top_p": float(random.choice([1, 0.95, 0.5, 0.05])),
            "min_p": float(random.choice([0, 0.02, 0.3])),
            "repetition_penalty": float(random.choice([1, 1.3, 0.8])),
        }
        logits = (random.normal(size=size) * 4).astype(np.float32)
        banned = [] if size < 4 else random.choice(size, 2, replace=False).tolist()
        seen = random.integers(0, size, 5).tolist()
        cases.append({"logits": logits.tolist(), "settings": settings, "banned": banned, "seen": seen, "case": case})
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    script = (
        'import { distribution } from "./rules.mjs"; import { readFileSync } from "node:fs";'
        'const cases = JSON.parse(readFileSync("cases.json"));'
        "console.log(JSON.stringify(cases.map((c) => {"
        " const d = distribution(Float32Array.from(c.logits), c.settings, c.banned, c.seen);"
        " return [Array.from(d.kept), Array.from(d.probabilities)]; })));"
    )
    shutil.copy(STATIC / "rules.js", tmp_path / "rules.mjs")
    (tmp_path / "run.mjs").write_text(script)
    done = subprocess.run(["node", "run.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True)
    for case, (kept, probabilities) in zip(cases, json.loads(done.stdout), strict=True):
        logits, seen = torch.tensor([case["logits"]]), torch.tensor([case["seen"]])
        banned = torch.tensor(case["banned"], dtype=torch.long)
        expected = rules.filtered(logits, GenerateConfig(**case["settings"]), banned, seen)[0]
        assert kept == (expected > -torch.inf).int().tolist(), case
        assert probabilities == pytest.approx(expected.softmax(-1).tolist(), abs=1e-5), case
