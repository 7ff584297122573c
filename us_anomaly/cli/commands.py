"""The commands that there are, and the text of `usad --help`."""

from dataclasses import dataclass

from us_anomaly.version import __version__


@dataclass(frozen=True, slots=True)
class Command:
    """One command: the module whose `run(settings)` does the work, and what the overview says."""

    module: str
    summary: str


COMMANDS = {
    "run": Command("run", "all stages in order; what is up to date is skipped"),
    "split": Command("split", "check every picture and divide the data set into train, val and test"),
    "finetune-backbone": Command("finetune_backbone", "teach the backbone on normal pictures first (optional)"),
    "distill-teacher": Command("distill_teacher", "distil the pretrained backbone into the patch network"),
    "normalize": Command("normalize", "measure mean and deviation of the teacher's descriptors"),
    "train-students": Command("train_students", "train the ensemble on normal pictures"),
    "calibrate": Command("calibrate", "choose thresholds and colours on validation pictures"),
    "infer": Command("infer", "score the data set, or any file, folder or glob (inference.input=)"),
    "evaluate": Command("evaluate", "compare predictions with the truth"),
    "compare": Command("compare", "put any number of evaluated run directories into one table: usad compare DIR..."),
    "export": Command("export", "the detector as an ONNX file, compared with the original on real pictures"),
    "report": Command("report", "web pages that show data, decisions and doubt; open from disk"),
}
ALIASES = {"train-teacher": "distill-teacher"}


def overview() -> str:
    """Return the text of `usad --help`."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"usad {__version__}: find defects in images after seeing only good ones (Uninformed Students, CVPR 2020)",
            "",
            "usage: usad COMMAND [flags] [key=value ...]",
            "",
            *lines,
            "",
            "  usad run data=demo                                         try it on textures that pip brings along",
            "  usad run data=folder data.root=DIR experiment=accurate     your pictures: DIR/images/good, DIR/images/<defect>",
            "  usad infer run_dir=runs/folder inference.input=photo.png   any picture, by the detector of a run directory",
            "",
            "  usad help KEY              what a setting means, or all settings of a group: usad help teacher",
            "  usad COMMAND --help        every setting with its value",
            "  usad COMMAND --cfg job     the configuration and nothing else",
            "  usad COMMAND -m a=1,2      a sweep: one run directory per job",
            '  eval "$(usad -sc install=bash)"   tab completion for this shell',
        ]
    )


def suggestion(typed: str) -> str:
    """Return a question about the command that was probably meant, or nothing."""
    import difflib

    near = difflib.get_close_matches(typed, [*COMMANDS, *ALIASES], n=1)
    return f", did you mean {near[0]!r}?" if near else ""
