"""check: verify every record and image that a configuration would train and test on."""

from __future__ import annotations

from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    """Run the verb: `--config` and all options of `fit`, and `--decode_images` to open every image."""
    from lit_cvit.cli import StreamCLI
    from lit_cvit.data.datamodule import ContinualDataModule

    flag = "--decode_images"
    if {"-h", "--help"} & set(argv):
        print(f"check takes {flag}, to open every image, and the options of `fit`:\n")
    cli = StreamCLI([argument for argument in argv if argument != flag], run=False)
    data = cli.datamodule
    assert isinstance(data, ContinualDataModule)
    for report in data.check(decode_images=flag in argv):
        print("\n".join(report.lines()))
    stages = data.stages(seed=0)
    print(f"{len(stages)} stages, {sum(stage.num_steps for stage in stages)} steps: ready to fit")
    return 0
