"""Overrides: what is typed is what is used, and a command that is printed does the same again."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from experiments.__main__ import _load, main
from experiments.config import loading
from experiments.config.errors import ConfigError
from experiments.config.paths import ROOT
from experiments.config.schema import join_words, repeat_command
from experiments.grid import driver
from experiments.terminal import screens

STRANGE = [
    "/my photos #2", "#", "/a: b", "a:b", "*", "&a b", "!b", "yes", "no", "on", "off", "1e3", "007", "1_000", "0x10", "~",
    "2024-01-01", "1:30", "[a", "[a, b]", "{a: b}", "'a'", '"a"', "it's", 'a"b', "a\\b", "a\\\\ b\\", "$HOME",
    "$(id)", "`id`",
    "$$", "!!", "a=b", "-", "---", "? a", "| a", "> a", "%a", "@a", "é ü 写真", " lead", "trail ",
    ")", "(,", "a;b", "a&&b", "a|b>c", "null ", "Null", "true", ".", "*.jpg", "a\u00a0b",
    "1.5",
]  # fmt: skip


def value(text: str) -> Any:
    (found,) = loading.parse_overrides([text]).values()
    return found


@pytest.mark.parametrize("text", STRANGE)
def test_a_string_is_what_was_typed(text: str) -> None:
    assert value(f"data.path={text}") == value(f"data.title={text}") == value(f"question={text}") == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data.path=null", None),
        ("data=digits", "digits"),
        ("data=[digits, digits_blocks]", ["digits", "digits_blocks"]),
        ("models=[a,b]", ["a", "b"]),
        ("recipe=010", "010"),
        ("recipe.learning_rate=3e-4", 3e-4),
        ("recipe.steps=1_000", 1000),
        ("recipe.clip_grad_norm=null", None),
        ("recipe.compile=off", False),  # as YAML has it; the recipe takes it for "off"
        ("recipe.augmentation.horizontal_flip=true", True),
        ("vary={data.title: ['a #b', c#d]}", {"data.title": ["a #b", "c#d"]}),
    ],
)
def test_other_values_are_yaml(text: str, expected: Any) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("recipe.steps=4 # four", ["` #` begins a comment", "'4 # four'"]),
        ("seeds=[0,\n# 1,\n2]", [r"control or invalid character '\n'"]),
        ("vary={data.title: [a #b\n]}", [r"control or invalid character '\n'"]),
        ("recipe.steps=0100", ["0100 is a number to base 8"]),
        ("seeds=[1, -010]", ["-010 is a number to base 8"]),
        ("recipe.steps=1:30", ["1:30 is a number to base 60"]),
        ("recipe.weight_decay=0:30.0", ["0:30.0 is a number to base 60"]),
        ("seeds=&x [0]", ["anchors and aliases are not used here"]),
        ("seeds=*x", ["anchors and aliases are not used here"]),
        ("recipe.clip_grad_norm=", ["the value is missing", "or null for none"]),
        ("data.title= ", ["the value is missing. Write one after the `=`."]),
        ("data.path=/a\x1b[31m", [r"control or invalid character '\x1b'"]),
        ("data.path=/a\udcff", [r"control or invalid character '\udcff'"]),  # a byte that is no UTF-8
    ],
)
def test_nothing_of_a_value_is_lost_in_silence(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        loading.parse_overrides([text])
    assert len(caught.value.faults) == 1 and caught.value.faults[0].startswith(f"ARGS {text.partition('=')[0]}:")
    assert all(word in caught.value.faults[0] for word in words)


@pytest.mark.parametrize("text", ["recipe.weight_decay=yes", "recipe.augmentation.horizontal_flip='1'", "seeds=[2024-01-01]",
                                  "models=[no, on]", "recipe.steps=1e3", "seeds=[08]"])  # fmt: skip
def test_a_value_of_another_type_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="got"):
        loading.load_experiment("smoke", loading.parse_overrides([text]))


WORDS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12), max_size=4)


@given(WORDS)
def test_words_and_commands_are_split_as_they_were_joined(words: list[str]) -> None:
    words = [f"data.path={word}" for word in words]
    args = join_words(words)
    assert shlex.split(args) == words
    command = ["make", "experiment", "NAME=smoke", f"ARGS={args}"]
    assert shlex.split(repeat_command("smoke", args)) == (command if words else command[:3])


def test_a_plain_command_is_printed_plainly() -> None:
    assert repeat_command("smoke", join_words(["recipe.steps=5", "seeds=[0,1]"])) == (
        'make experiment NAME=smoke ARGS="recipe.steps=5 seeds=[0,1]"'
    )


def argv_of(command: str) -> list[str]:
    """What the program gets when a shell runs a command of make's."""
    run = f"{command} -s -o install RUN='printf %s\\\\0'"
    outer = ("MAKEFLAGS", "MAKEOVERRIDES", "FLAGS", "JOBS", "ENGINE")  # of the make that may run the tests
    given = {name: value for name, value in os.environ.items() if name not in outer}
    done = subprocess.run(["bash", "-c", run], cwd=ROOT, env=given, capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


def test_a_printed_command_reaches_the_program_through_shell_and_make() -> None:
    words = [f"data.path={text}" for text in STRANGE]
    verb, name, args, *_ = argv_of(repeat_command("smoke", join_words(words)))
    assert (verb, name) == ("run", "smoke") and shlex.split(args) == words
    for text in ("$(shell exit 1)", "$(b", "${", "a$b", "`exit 1`"):  # on their own: make would stop at some of them
        assert argv_of(repeat_command("smoke", text))[2] == text


def test_make_takes_a_name_and_a_source_as_they_are() -> None:
    assert argv_of("make report NAME='a; b' FROM='wandb:t/p $x'")[:4] == ["report", "a; b", "--from", "wandb:t/p $x"]


def test_a_folder_with_a_strange_name_is_the_one_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, count in (("my photos", 10), ("my photos #2", 20)):
        for name, shade in (("cat", 50), ("dog", 200)):
            (tmp_path / folder / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (64, 64), (shade, number, number)).save(tmp_path / folder / name / f"{number}.png")
    tiny = "recipe.steps=1 recipe.evaluations=1 seeds=[0] models=[resnet_photo] reference=resnet_photo expect=[]"
    experiment = _load("vit_photos", [f'data.path="{tmp_path}/my photos #2" {tiny} train_fractions=[1.0]'])
    assert [data.path for data in experiment.data.values()] == [f"{tmp_path}/my photos #2"]
    argv = argv_of(experiment.command)
    assert _load("vit_photos", argv[2:3]) == experiment
    assert driver.plan(experiment)[0].command == experiment.command
    monkeypatch.setattr(sys, "argv", ["experiments", *argv])
    assert main() == 0
    run = next((tmp_path / "runs_dir").glob("*/*/record.json")).parent
    assert '"n_train": 28' in (run / "record.json").read_text(encoding="utf-8")  # of 40: 8 for test, 4 for validation
    assert f"Again    {experiment.command}\n" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["experiments", "show", str(run)])
    assert main() == 0
    assert capsys.readouterr().out.endswith(f"made by      {experiment.command}\n")


def test_a_long_command_is_read_whole(tmp_path: Path) -> None:
    from experiments.training import artifacts

    command = repeat_command("smoke", join_words([f"data.title={number} and more" for number in range(200)]))
    with open(tmp_path / "config.yaml", "w", encoding="utf-8") as file:
        artifacts.yaml.dump({"command": command, "cell": {"seed": 0}}, file, sort_keys=False)
    assert screens.command_of(tmp_path) == command


def test_the_words_of_another_run_can_be_typed() -> None:
    from analysis.fairness.certificate import Difference
    from analysis.fairness.strangers import Strangers

    def advice(**differences: str) -> str:
        found = [
            Difference(f"recipe.{key}", "digits", {"1 (this experiment)": ["a"], value: ["b"]})
            for key, value in differences.items()
        ]
        return Strangers([], found, {}).advice

    said = advice(clip_grad_norm="None", betas="[0.9, 0.95]", steps="5")
    args = shlex.split(said[said.index("ARGS=") :].removesuffix("."))[0].removeprefix("ARGS=")
    assert loading.parse_overrides(shlex.split(args)) == {
        "recipe.clip_grad_norm": None, "recipe.betas": [0.9, 0.95], "recipe.steps": 5
    }  # fmt: skip
    assert advice(compile="absent") == ""


def test_ray_on_slurm_gets_the_words_as_they_are() -> None:
    script = (ROOT / "configs" / "slurm" / "ray.sbatch").read_text(encoding="utf-8")
    (line,) = [line for line in script.splitlines() if "-m experiments run" in line]
    command = line.replace('"$bin/python" -m experiments', "printf '%s\\0'").removesuffix("&")
    args = join_words([f"data.path={text}" for text in STRANGE])
    done = subprocess.run(["bash", "-c", command], env=os.environ | {"NAME": "a b", "ARGS": args}, capture_output=True)
    assert done.stdout.decode().split("\0")[:3] == ["run", "a b", args]
