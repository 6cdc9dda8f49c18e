"""Where the files of the embedded model lie: weights, configs, learned tables; and what the first two are known by."""

import json
from pathlib import Path

from fewstep.output.seal import changed, digest, digest_of_file

FOLDER = Path(__file__).parent
SHA256 = {  # of a file's bytes; of a config's content, since line ends differ between systems
    "classifier.safetensors": "9849be38aee7f58ca8b189b4b276c534dda933b858c0133b571690f52f26408b",
    "diffusion_pytorch_model.safetensors": "949a47dc13a16d668d9f099d136f78fe8c79d0fb5f12576865cd52b6bc2f004b",
    "config.json": "a5c8ce7a50471a6795bac98bdd6a6b98e70af2097b6ef662595b779fc9406a38",
    "scheduler_config.json": "82d0e62bbcaeceefeb3a1a109f97571d7f657ea835f1ec463e3ea7172211976c",
}


def proved(*names: str) -> Path:
    """The folder, in which these files are what was published; ValueError for one that is not."""
    for name in names:
        file = FOLDER / name
        found = digest(json.loads(file.read_text(encoding="utf-8"))) if file.suffix == ".json" else digest_of_file(file)
        if found != SHA256[name]:
            raise changed(file, "Install fewstep again: pip install --force-reinstall fewstep")
    return FOLDER
