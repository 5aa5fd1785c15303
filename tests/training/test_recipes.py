"""A recipe is what the command line, --init and --recipe make of it, and decides rate and optimiser."""

import argparse
import math
from dataclasses import asdict, fields, replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from training_help import arguments, last_line

import mnv3
import train
from mnv3 import InputError
from mnv3.checkpoints.checkpoint import Checkpoint
from mnv3.images.preprocessing import Preprocessing
from mnv3.nets.spec import Spec
from mnv3.training import recipe as training_recipe
from mnv3.training import run as training_run
from mnv3.training.recipe import Recipe
from mnv3.training.run import learning_rate, optimiser

# ---- learning rate and optimiser ----------------------------------------------------------------------------------


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine():
    recipe = Recipe(lr=0.4, warmup=0.2)
    rate = [learning_rate(recipe, step / 1000) for step in range(1000)]
    assert 0 < rate[0] < 0.01
    assert rate[50] == pytest.approx(0.1) and rate[100] == pytest.approx(0.2)
    assert max(rate) == rate[200] == pytest.approx(0.4)
    assert rate[400] == pytest.approx(0.2 * (1 + math.cos(math.pi / 4)))
    assert rate[600] == pytest.approx(0.2)
    assert all(a < b for a, b in zip(rate[2:200], rate[3:201], strict=True))
    assert all(a > b for a, b in zip(rate[200:-1], rate[201:], strict=True))
    assert 0 < rate[-1] < 1e-5


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_a_run_without_a_rise_or_a_fall_has_a_rate_too(warmup):
    rates = [learning_rate(Recipe(lr=0.4, warmup=warmup), step / 100) for step in range(100)]
    assert all(0 < rate <= 0.4 for rate in rates)
    assert rates == sorted(rates, reverse=not warmup)


def test_weight_decay_is_on_convolutions_and_linear_layers_but_not_in_se_blocks():
    model = training_run.new_model(Recipe(width=0.35), Spec.of("small", 0.35, 10, 2))
    groups = optimiser(model, Recipe(weight_decay=0.01)).param_groups
    by_id = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(by_id) == len(list(model.parameters()))
    undecayed = {name for name, p in model.named_parameters() if by_id[id(p)] == 0}
    decayed = {name for name, p in model.named_parameters() if by_id[id(p)] == 0.01}
    in_se = {name for name in undecayed | decayed if ".fc1." in name or ".fc2." in name}
    assert len(in_se) == 4 * 9 and in_se <= undecayed
    modules = dict(model.named_modules())
    for name in (undecayed | decayed) - in_se:
        owner, _, kind = name.rpartition(".")
        layer = isinstance(modules[owner], nn.Conv2d | nn.Linear) and kind == "weight"
        assert (name in decayed) == layer, name


@pytest.mark.parametrize("steps", [7, 11])
def test_the_stepwise_rate_loses_one_percent_every_third_epoch(steps):
    recipe = Recipe(lr=2.0, schedule="steps", warmup=0, epochs=300)
    rates = [learning_rate(recipe, step / (300 * steps)) for step in range(300 * steps)]
    assert rates == pytest.approx([2 * 0.99 ** (step // (3 * steps)) for step in range(300 * steps)])


def test_the_constant_rate_is_constant_after_its_rise():
    recipe = Recipe(lr=0.3, schedule="constant", warmup=0.5)
    assert [learning_rate(recipe, share) for share in (0.25, 0.5, 0.75, 0.999)] == [0.15, 0.3, 0.3, 0.3]


@pytest.mark.parametrize(
    "name, after", [
        ("sgd", 2 - 0.1 * 1.9 * (0.5 + 0.2 * 2)),  # Nesterov's first step: g + 0.9 g, and g has the decay in it
        ("adam", 2 - 0.1),  # its first step is the rate, whatever the gradient
        ("adamw", 2 * (1 - 0.1 * 0.2) - 0.1),
        ("rmsprop", 2 - 0.1 * 0.9 / (math.sqrt(0.1 * 0.9**2) + 0.0316)),
    ],
)  # fmt: skip
def test_one_step_of_each_optimiser_by_hand(name, after):
    """A weight of 2 with gradient 0.5, rate 0.1, decay 0.2."""
    layer = nn.Linear(1, 1)
    layer.weight.data.fill_(2)
    stepped = optimiser(layer, Recipe(optimiser=name, lr=0.1, weight_decay=0.2))
    layer.weight.grad, layer.bias.grad = torch.full((1, 1), 0.5), torch.zeros(1)
    stepped.step()
    assert layer.weight.item() == pytest.approx(after, abs=1e-5)


# ---- the network that a recipe asks for ---------------------------------------------------------------------------


def chosen(*words):
    """(recipe, network_spec for three classes) of a command line."""
    parser = argparse.ArgumentParser()
    training_recipe.recipe_arguments(parser)
    recipe, source = training_recipe.chosen_recipe(vars(parser.parse_args([*words])))
    return recipe, training_run.network_spec(recipe, 3, source)


def test_init_with_more_strides_at_1_keeps_its_weights_and_with_fewer_is_refused():
    words = "--init", "cifar10-small"
    recipe, spec = chosen(*words, "--strides", "3", "--dropout", "0.5")
    known = mnv3.load("cifar10-small")
    assert spec == replace(known.spec.with_strides(1), num_classes=3, dropout=0.5) and spec.strides == 3
    model = training_run.new_model(recipe, spec, known)
    assert torch.equal(model.features[5].block[0][0].weight, known.model.features[5].block[0][0].weight)
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.5}
    assert model.eval().features(torch.zeros(1, 3, 32, 32)).shape[-1] == 8  # of 4 with two strides at 1
    with pytest.raises(InputError, match="give --strides 2 or more"):
        chosen(*words, "--strides", "1")


@pytest.mark.parametrize("words", [("--variant", "large"), ("--width", "0.5"), ("--minimalistic",)])
def test_a_network_that_is_not_inits_is_refused_by_name(words):
    with pytest.raises(InputError, match=f"`{words[0][2:]}` .*`init` .*'cifar10-small'.*another --init"):
        chosen("--init", "cifar10-small", *words)


@pytest.mark.parametrize("words", [("--variant", "small"), ("--width", "1.0"), ("--no-minimalistic",)])
def test_what_init_has_may_be_said_again(words):
    assert chosen("--init", "cifar10-small", *words)[0].variant == "small"


def test_a_minimalistic_checkpoint_is_known_as_one(tmp_path):
    model = mnv3.MobileNetV3(spec=Spec.of("small", 0.35, 3, 2, minimalistic=True))
    prepared = Preprocessing(32, 32, "bilinear", (0,) * 3, (1,) * 3)
    Checkpoint("plain", model, ("a", "b", "c"), prepared, "scenes").save(tmp_path)
    recipe, spec = chosen("--init", str(tmp_path))
    assert recipe.minimalistic and recipe.width == 0.35 and spec == model.spec
    with pytest.raises(InputError, match="minimalistic"):
        chosen("--init", str(tmp_path), "--no-minimalistic")


@pytest.mark.parametrize("given", ["{}/mine", "~/mine"])
def test_of_a_folder_that_was_begun_from_only_the_name_is_published(given, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    folder = given.format(tmp_path)
    published = train.published_recipe(Recipe(init=folder, teacher="user/repo", data=folder), "my pictures")
    assert (published["init"], published["teacher"], published["data"]) == ("mine", "user/repo", "my pictures")
    monkeypatch.chdir(tmp_path / "mine")
    assert train.published_recipe(Recipe(init="."), "")["init"] == "mine"


def test_the_articles_recipe_is_its_loop(textures, tmp_path, monkeypatch):
    """As published but for the batch, since there are 96 pictures here: Adam, a constant rate, pictures in 0..1."""
    recipe, spec = chosen("--recipe", "article")
    assert (recipe.optimiser, recipe.batch_size, recipe.epochs, recipe.size) == ("adam", 148, 10, 32)
    assert {learning_rate(recipe, share) for share in (0, 0.3, 0.999)} == {1e-3} and spec.variant == "article-large"
    steps, true_step = [], train.train_step

    def watched(run, pictures, mean, std, *rest):
        result = true_step(run, pictures, mean, std, *rest)
        steps.append((type(run.optimiser), run.optimiser.param_groups[0]["lr"], *mean.tolist(), *std.tolist()))
        return result

    monkeypatch.setattr(train, "train_step", watched)
    few = ["--recipe", "article", "--batch-size", "32", "--epochs", "1", "--holdout", "24", "--device", "cpu"]
    assert train.main(["--data", str(textures), "--out", str(tmp_path), *few]) == 0
    assert set(steps) == {(torch.optim.Adam, 1e-3, 0, 0, 0, 1, 1, 1)} and len(steps) == 3
    checkpoint = mnv3.load(tmp_path)
    assert checkpoint.preprocessing == Preprocessing(32, 32, "bilinear", (0,) * 3, (1,) * 3)
    assert checkpoint.name == "textures-article-large" and checkpoint.gates.n.tolist() == [96, 32, 32, 32]


def test_a_minimalistic_network_is_trained_and_has_no_gates(textures, tmp_path):
    assert train.main(arguments(textures, tmp_path, "--minimalistic", "--epochs", "1")) == 0
    checkpoint = mnv3.load(tmp_path)
    assert checkpoint.spec == Spec.of("small", 0.35, 3, 2, minimalistic=True) and checkpoint.gates is None
    assert not (tmp_path / "gates.safetensors").exists()


# ---- the command line ---------------------------------------------------------------------------------------------

# other values than the defaults; numbers are changed below
OTHER = {
    "variant": "large", "data": "elsewhere", "init": "cifar10-small", "teacher": "cifar10-large", "precision": "bf16",
    "optimiser": "adamw", "schedule": "constant", "policy": "rand",
}  # fmt: skip


@pytest.mark.parametrize("name", [f.name for f in fields(Recipe)])
def test_every_field_of_the_recipe_has_an_option(name):
    parser = argparse.ArgumentParser()
    training_recipe.recipe_arguments(parser)
    option, default = "--" + name.replace("_", "-"), asdict(Recipe())[name]
    value = OTHER[name] if name in OTHER else not default if isinstance(default, bool) else default + 1
    words = [option if value else option.replace("--", "--no-")] if isinstance(default, bool) else [option, str(value)]
    assert vars(parser.parse_args([])) == {"recipe": "cifar"}
    given = vars(parser.parse_args(words))
    assert given == {"recipe": "cifar", name: value} and type(given[name]) is type(default)


@pytest.mark.parametrize("words, found", [
    ([], {"epochs": 18, "optimiser": "sgd"}),
    (["--recipe", "article", "--data", "x"], {"variant": "article-large", "epochs": 10, "batch_size": 148, "lr": 1e-3}),
    (["--recipe", "article", "--lr", "0.2"], {"optimiser": "adam", "lr": 0.2}),  # also where it is the default
    (["--epochs", "9"], {"epochs": 9, "early_epochs": 6}),  # of 18 the recipe has 13, which a shorter run hasn't
    (["--epochs", "14"], {"epochs": 14, "early_epochs": 13}),
    (["--epochs", "9", "--early-epochs", "2"], {"epochs": 9, "early_epochs": 2}),
    (["--init", "cifar10-large", "--recipe", "cifar"], {"variant": "large", "init": "cifar10-large"}),
])  # fmt: skip
def test_the_command_line_comes_before_inits_network_and_that_before_the_recipe(words, found):
    parser = argparse.ArgumentParser()
    training_recipe.recipe_arguments(parser)
    recipe, source = training_recipe.chosen_recipe(vars(parser.parse_args(words)))
    assert found.items() <= asdict(recipe).items()
    assert (source is not None) == bool(recipe.init)


def test_help_shows_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0
    for f in fields(Recipe):
        assert f"--{f.name.replace('_', '-')} " in shown and f"({f.default})" in shown
    assert "--resume" in shown and "--out" in shown


@pytest.mark.parametrize(
    "option, value",
    [
        ("lr", "0"), ("lr", "nan"), ("lr", "101"), ("epochs", "0"), ("batch-size", "1"), ("early-epochs", "3"),
        ("warmup", "1.5"), ("label-smoothing", "-0.1"), ("shift", "32"), ("ema", "1.0"), ("norm-momentum", "0.0"),
        ("seed", "-1"), ("size", "7"), ("weight-decay", "inf"), ("holdout", "0"), ("holdout", "120"), ("width", "0"),
        ("width", "nan"), ("strides", "77"), ("strides", "-1"), ("variant", "medium"), ("batch-size", "97"),
        ("device", "toaster"), ("precision", "int4"), ("teacher", "cifar10-large"),
        ("optimiser", "lion"), ("schedule", "step"), ("policy", "auto"), ("accumulate", "3"), ("dropout", "1.0"),
        ("teacher-weight", "2.0"), ("temperature", "0.0"), ("erase", "nan"), ("mixup", "-1.0"), ("cutmix", "inf"),
        ("smallest-crop", "0.0"), ("variant", "article-large"), ("device", "meta"), ("workers", "-1"),
        ("push-every", "-1"), ("precision", "fp16"),
    ],
)  # fmt: skip
def test_a_bad_value_is_one_sentence_and_status_2(option, value, textures, tmp_path, capsys):
    assert train.main(arguments(textures, tmp_path / "run", f"--{option}", value)) == 2
    said = last_line(capsys)
    assert said.startswith("train.py: ") and said.count("train.py") == 1
    assert option.replace("-", "_") in said and value in said
    assert not (tmp_path / "run" / "last.pt").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, so asking for it is right")
def test_a_gpu_that_is_not_there_is_one_sentence(textures, tmp_path, capsys):
    assert train.main(arguments(textures, tmp_path / "run", "--device", "cuda")) == 2
    assert "cuda" in last_line(capsys)


def test_another_device_is_refused_though_it_is_there(monkeypatch):
    monkeypatch.setattr(train.torch, "empty", lambda *_, device: SimpleNamespace(device=torch.device(device)))
    assert train.usable("cpu").type == "cpu"
    with pytest.raises(InputError, match="'mps'.*cpu, or cuda"):
        train.usable("mps")


@pytest.mark.parametrize("words", [["--epochs", "many"], ["--no-such-option"], []])
def test_words_that_argparse_refuses_end_in_status_2(words, textures, tmp_path, capsys):
    given = arguments(textures, tmp_path / "run", *words) if words else ["--data", str(textures)]
    with pytest.raises(SystemExit) as stopped:
        train.main(given)
    assert stopped.value.code == 2
    assert (words[0] if words else "--out") in last_line(capsys)


def test_a_data_folder_that_is_not_there_is_one_sentence(tmp_path, capsys):
    assert train.main(arguments(tmp_path / "nowhere", tmp_path / "run")) == 2
    assert "`data` (='nowhere') is no folder here" in last_line(capsys)
