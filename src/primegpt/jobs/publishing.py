"""A run onto the Hugging Face hub: as `export` writes it, with a card that says how it was made."""

import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from primegpt.errors import PrimegptError, UsageError, quoted
from primegpt.interop.carried import is_licence
from primegpt.interop.huggingface import CONFIG, HUB_ID
from primegpt.interop.weight_files import INDEX, read_json
from primegpt.jobs.interop import export
from primegpt.model.size import human_bytes
from primegpt.report.history import History
from primegpt.report.model_card import model_card
from primegpt.run import atomic
from primegpt.run.folder import RunFolder
from primegpt.terminal import Say, silent, to_stderr
from primegpt.tokenizers.companions import TEMPLATE

CARD = "README.md"
# What an earlier push may have left and another one does not write: it would be read in place of the new.
PUSHED = ("model*.safetensors", INDEX, "tokenizer*", "*.tiktoken", TEMPLATE, "vocab.json", "merges.txt")
PUSHED += ("special_tokens_map.json", "added_tokens.json", "tekken.json", "primegpt.json", "generation_config.json")
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


def push(
    run: str | Path, repo: str, *, private: bool = False, checkpoint: str | int = "best", say: Say = to_stderr
) -> str:
    """Upload a run's model and tokenizer for Transformers to `repo` ("me/my-gpt") on the hub, and return its address.

    The repository is made if it is not there, `private` or public. A README.md that is there is kept, else one is
    written; what an earlier push left of a model and a tokenizer, and this one does not write, is deleted.
    Raises UsageError, in one line, for a run that cannot be exported, and where the hub cannot be reached or does not
    allow it.
    """
    if not HUB_ID.fullmatch(repo) or "--" in repo or ".." in repo or len(repo) > 96:
        raise UsageError(f"{quoted(repo)} cannot name a repository", "give it as OWNER/NAME: letters, digits, - _ .")
    from huggingface_hub import get_token

    if not get_token():
        raise UsageError("nobody is logged in to the Hugging Face hub", LOG_IN)
    folder = RunFolder.open(Path(run))
    with ExitStack() as stack:
        with atomic.io_errors(f"write beside {folder.path}"):
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix=".push-", dir=folder.path.parent))
        model = export(folder.path, Path(place) / "model", checkpoint=checkpoint, say=silent)
        return _upload(model, folder, repo, private, say)


def _upload(model: Path, folder: RunFolder, repo: str, private: bool, say: Say) -> str:
    from huggingface_hub import HfApi

    hub, size = HfApi(), sum(path.stat().st_size for path in model.iterdir())
    with one_line(repo):
        url = hub.create_repo(repo, private=private or None, exist_ok=True)
        there = hub.model_info(url.repo_id)
        if private and not there.private:
            what = f"{url} is there already, and public"
            raise UsageError(what, "make it private in its settings, or choose another name; nothing was uploaded")
    if CARD in [file.rfilename for file in there.siblings or ()]:
        say(f"{url.repo_id} has a {CARD}, which is kept; delete it there to have a new one written")
    else:
        atomic.write_text_atomic(model / CARD, _card(model, folder, url.repo_id))
    say(f"uploading {human_bytes(size)} to {'the private ' if private else ''}{url}")
    with one_line(repo):
        message = f"primegpt push {folder.path.name}"
        hub.upload_folder(repo_id=url.repo_id, folder_path=model, commit_message=message, delete_patterns=list(PUSHED))
    return str(url)


def _card(model: Path, folder: RunFolder, repo: str) -> str:
    (architecture,) = read_json(model, CONFIG)["architectures"]
    licensed = any(is_licence(path.name) for path in model.iterdir())
    return model_card(History.read(folder.path), repo, architecture, licensed)


@contextmanager
def one_line(repo: str) -> Generator[None, None, None]:
    """What goes wrong with the hub, in one line. The library's own words are not told: a token may be in them."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    except PrimegptError:
        raise
    except Exception as error:  # the library's own errors are of many kinds
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401:
            raise UsageError("the Hugging Face hub does not know the token", LOG_IN) from None
        if status in (403, 404):
            what = f"the token may not write to {repo} on the Hugging Face hub"
            raise UsageError(what, "choose a name of your own, or a token that may write") from None
        if status is not None:
            raise UsageError(f"the Hugging Face hub answered {status} when {repo} was written", "try again") from None
        what = f"{repo} was not written to the Hugging Face hub, or not as a whole ({type(error).__name__})"
        raise UsageError(what, "push again where there is a network: what is there already is not sent twice") from None
    finally:
        if bars:
            enable_progress_bars()
