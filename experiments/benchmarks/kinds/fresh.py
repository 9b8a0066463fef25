"""Problems that are kept apart: all rules had been chosen when they were first trained."""

from __future__ import annotations

import ast
import copy
import inspect
import math
import re
from collections import Counter
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.benchmarks.kinds import fresh_nets, nets
from experiments.benchmarks.kinds.data import fashion, prior, split, standardized
from experiments.benchmarks.kinds.losses import Batch, accuracy, squared_error
from experiments.benchmarks.kinds.problems import Problem, classify, pretrained

# ---- text ---------------------------------------------------------------------------------------


def _modules() -> list[Any]:
    import difflib
    import doctest
    import ipaddress
    import pickle
    import smtplib
    import tarfile
    import threading
    import typing
    import zipfile

    modules = [difflib, doctest, inspect, ipaddress, pickle, smtplib]
    return [*modules, tarfile, threading, typing, zipfile]


def smoothed(net: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of labels of which a tenth is spread over all classes."""
    x, y = batch
    return F.cross_entropy(net(x), y, label_smoothing=0.1)


def modules(length: int = 80, of_each: int = 400) -> Problem:
    """Tell which of ten modules of Python a snippet is from."""
    sources = [inspect.getsource(module)[: length * of_each] for module in _modules()]
    codes = torch.tensor([min(ord(c), 127) for source in sources for c in source])
    data = split(codes.view(-1, length), torch.arange(10).repeat_interleave(of_each), val=1000)
    return Problem(fresh_nets.TextCNN(10), smoothed, data[:2], data[2:], math.log(10), accuracy)


def next_letter(net: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of each letter, given those before it; 0 is no letter."""
    word, target = batch
    return F.cross_entropy(net(word, F.pad(target[:, :-1], (1, 0))), target, ignore_index=0)


@lru_cache
def _words(longest: int = 10) -> tuple[Tensor, ...]:
    from pydoc_data.topics import topics

    content = " ".join(topics.values()).lower()
    letters = [
        [ord(c) - 96 for c in word] for word in sorted(set(re.findall(r"\b[a-z]{3,10}\b", content)))
    ]
    words = torch.tensor([[0] * (longest - len(word)) + word for word in letters])
    backwards = [[*word[::-1], 27] + [0] * (longest - len(word)) for word in letters]
    return split(words, torch.tensor(backwards), val=600)


def backwards() -> Problem:
    """Spell the words of Python's help backwards."""
    data = _words()
    trivial = prior(*(target[target > 0] for target in (data[1], data[3])))
    return Problem(fresh_nets.Seq2Seq(), next_letter, data[:2], data[2:], trivial)


def next_word(net: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of each word of a window, given those before it."""
    (window,) = batch
    return net(window[:, :-1], window[:, 1:])


@lru_cache
def _sentences(count: int = 2000, length: int = 24) -> tuple[Tensor, ...]:
    from pydoc_data.topics import topics

    text = " ".join(topics[name] for name in sorted(topics)).lower()
    words = re.findall(r"\w+|[^\w\s]", text)
    known = {word: i for i, (word, _) in enumerate(Counter(words).most_common(count - 1))}
    codes = torch.tensor([known.get(word, count - 1) for word in words])
    windows = codes[: len(codes) // (length + 1) * (length + 1)].view(-1, length + 1)
    return split(windows, val=400)


def sentences() -> Problem:
    """Predict the next word of Python's help."""
    train, val = _sentences()
    return Problem(
        fresh_nets.GatedConv(2000), next_word, (train,), (val,), prior(train[:, 1:], val[:, 1:])
    )


def hidden_nodes(net: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of the kinds of hidden nodes; others have a target of -100."""
    nodes, is_parent, target = batch
    return F.cross_entropy(net(nodes, is_parent), target)


@lru_cache
def _trees(size: int = 32, kinds: int = 40) -> tuple[Tensor, ...]:
    names, parents = [], []
    for path in sorted(Path(inspect.__file__).parent.glob("[a-z]*.py")):
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            nodes = [x for x in ast.walk(function) if not isinstance(x, ast.expr_context)][:size]
            if len(nodes) == size:
                place = {id(node): i for i, node in enumerate(nodes)}
                parent = torch.zeros(size, size)
                for i, node in enumerate(nodes):
                    for child in ast.iter_child_nodes(node):
                        if id(child) in place:
                            parent[place[id(child)], i] = 1.0
                names.append([type(node).__name__ for node in nodes])
                parents.append(parent)
    common = Counter(name for of_tree in names for name in of_tree).most_common(kinds - 1)
    known = {name: i for i, (name, _) in enumerate(common)}
    nodes = torch.tensor([[known.get(name, kinds - 1) for name in of] for of in names])
    hidden = torch.rand(nodes.shape, generator=torch.Generator().manual_seed(0)) < 0.2
    target = nodes.masked_fill(~hidden, -100)
    return split(nodes.masked_fill(hidden, kinds), torch.stack(parents), target, val=300)


def trees() -> Problem:
    """Guess hidden nodes of the syntax trees of Python's functions."""
    data = _trees()
    trivial = prior(*(target[target >= 0] for target in (data[2], data[5])))
    return Problem(fresh_nets.GraphNet(40), hidden_nodes, data[:3], data[3:], trivial)


# ---- images -------------------------------------------------------------------------------------


@lru_cache
def _small_fashion() -> tuple[Tensor, ...]:
    x, y, x_val, y_val = fashion()
    return F.avg_pool2d(x, 2), y, F.avg_pool2d(x_val, 2), y_val


def distilled(net: nn.Module, batch: Batch, temperature: float = 3.0) -> Tensor:
    """Of the classes and of the scores of a teacher (Hinton et al., arXiv:1503.02531)."""
    x, scores, y = batch
    logits = net(x)
    soft, wanted = (F.log_softmax(z / temperature, 1) for z in (logits, scores))
    taught = temperature**2 * F.kl_div(soft, wanted, reduction="batchmean", log_target=True)
    return 0.5 * (F.cross_entropy(logits, y) + taught)


@lru_cache
def _taught() -> tuple[Tensor, Tensor]:
    x, _, x_val, _ = _small_fashion()
    teacher = pretrained(lambda: classify(fresh_nets.teacher_net, _small_fashion()), 300, "").eval()
    with torch.no_grad():
        return teacher(x), teacher(x_val)


def distillation() -> Problem:
    """Teach a small net what a larger one has learnt about clothes."""
    x, y, x_val, y_val = _small_fashion()
    scores, scores_val = _taught()
    val = (x_val, scores_val, y_val)
    trivial = float(distilled(lambda x: torch.zeros(len(x), 10), list(val)))
    return Problem(fresh_nets.student_net(), distilled, (x, scores, y), val, trivial)


@lru_cache
def _of_rotations() -> nn.Module:
    """Features that tell how clothes are turned (Gidaris et al., arXiv:1803.07728)."""

    def rotated() -> Problem:
        parts = _small_fashion()[::2]
        data = []
        for x in parts:
            turned = torch.cat([torch.rot90(x, k, (2, 3)) for k in range(4)])
            data += [turned, torch.arange(4).repeat_interleave(len(x))]
        return classify(partial(nets.Headed, fresh_nets.resnet(), 32, 4), data)

    return pretrained(rotated, 400, "body")


def each_class(net: nn.Module, batch: Batch) -> Tensor:
    """Binary cross-entropy of each class (Wightman et al., arXiv:2110.00476)."""
    x, y = batch
    scores = net(x)
    return F.binary_cross_entropy_with_logits(scores, F.one_hot(y, scores.shape[1]).float())


def rotations() -> Problem:
    """Tell clothes apart by 1,000 examples, with features that were learnt without classes."""
    x, y, x_val, y_val = _small_fashion()
    net = nets.Headed(copy.deepcopy(_of_rotations()), 32, 10)
    always = y[:1000].bincount(minlength=10).div(1000).logit()
    trivial = float(each_class(lambda x: always.expand(len(x), 10), [x_val, y_val]))
    data = (x[:1000], y[:1000]), (x_val, y_val)
    return Problem(net, each_class, *data, trivial, accuracy, ("body",))


@lru_cache
def _pixels() -> tuple[Tensor, ...]:
    from sklearn.datasets import load_sample_image

    image = torch.tensor(load_sample_image("china.jpg")).float().permute(2, 0, 1)
    image = F.avg_pool2d(image, 4)
    axes = [torch.linspace(-1.0, 1.0, n) for n in image.shape[1:]]
    places = torch.cartesian_prod(*axes)
    return split(places, standardized(image.flatten(1).T), val=2000)


def photo() -> Problem:
    """Learn the colours of a photo, from seven eighths of its pixels."""
    data = _pixels()
    trivial = float(((data[3] - data[1].mean(0)) ** 2).mean())
    return Problem(fresh_nets.Field(), squared_error, data[:2], data[2:], trivial)


# ---- series -------------------------------------------------------------------------------------

_SERIES = ("co2", "sunspots", "nile", "elnino", "macrodata")


def mixture(net: nn.Module, batch: Batch) -> Tensor:
    """The negative log of the density of a mixture of Gaussians (Bishop, 1994)."""
    past, future = batch
    weight, mean, log_std = net(past).unbind(3)
    density = torch.distributions.Normal(mean, log_std.exp(), validate_args=False)
    return -(weight.log_softmax(2) + density.log_prob(future[..., None])).logsumexp(2).mean()


@lru_cache
def _windows() -> tuple[Tensor, ...]:
    """Return windows of each series of statsmodels, by mean and deviation of their past."""
    import statsmodels.api as sm

    of = {name: getattr(sm.datasets, name).load_pandas().data for name in _SERIES}
    series = [of["co2"].iloc[:, 0].ffill(), of["sunspots"].iloc[:, 1], of["nile"].iloc[:, 1]]
    series += [of["elnino"].iloc[:, 1:].stack(), *(of["macrodata"].iloc[:, 2:].T.iloc)]
    parts = []
    for values in series:
        x = torch.tensor(values.to_numpy(), dtype=torch.float32).unfold(
            0, fresh_nets.PAST + fresh_nets.FUTURE, 1
        )
        past = x[:, : fresh_nets.PAST]
        x = (x - past.mean(1, keepdim=True)) / past.std(1, keepdim=True).clamp(min=1e-6)
        past, future = x[:, : fresh_nets.PAST], x[:, fresh_nets.PAST :]
        parts.append(split(past, future, val=len(x) // 5, in_order=True))
    return tuple(map(torch.cat, zip(*parts, strict=True)))


def mixtures() -> Problem:
    """Predict the density of the next six values of sixteen series."""
    data = _windows()
    mean, std = data[1].mean(0), data[1].std(0)
    trivial = -torch.distributions.Normal(mean, std).log_prob(data[3]).mean()
    return Problem(fresh_nets.Forecaster(), mixture, data[:2], data[2:], float(trivial))
