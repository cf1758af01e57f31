"""convert: put a LLaVA-1.5 together from a Vicuna, a CLIP tower and an original `mm_projector.bin`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_cvit.cli.verb_parser import VerbParser


def run(argv: Sequence[str]) -> int:
    """Run the verb: the three parts, and `--out` for the model folder."""
    parser = VerbParser("convert", __doc__)
    parser.add_argument(
        "--projector", required=True, type=Path, help="mm_projector.bin of LLaVA's first stage"
    )
    parser.add_argument("--language_model", required=True, help="folder or hub name of the Vicuna")
    parser.add_argument("--vision_tower", required=True, help="folder or hub name of the CLIP model")
    parser.add_argument("--out", required=True, type=Path, help="folder to write; must be empty or not exist")
    chosen = parser.parse_args(argv)

    from lit_cvit.backbones.convert import convert_llava

    made = convert_llava(chosen.projector, chosen.language_model, chosen.vision_tower, chosen.out)
    print(f"wrote {made}: give it to the backbone Llava as name_or_path")
    return 0
