# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A Vision Transformer from four equations
#
# *An Image is Worth 16×16 Words* ([arXiv:2010.11929](https://arxiv.org/abs/2010.11929)) describes its model in four equations.
# This notebook goes through them in the paper's order. Each stands first as mathematics, then as the code that computes it,
# imported from `vit_scratch`, with the shapes that go in and come out **asserted**. Then the model is trained beside a CNN,
# tested once, and looked into.
#
# | environment | meaning |
# |:--|:--|
# | `DATA=digits` (default) | scikit-learn's embedded 8 × 8 digits: no network, a few minutes on a laptop's CPU |
# | `DATA=pizza_steak_sushi` | 300 photos of food, downloaded once (16 MB) and kept in `DATA_DIR` |
# | `STEPS=…` | optimiser steps of each training run |

# %%
import inspect
import itertools
import json
import os
import re
import sys
import textwrap
import time
import warnings
from collections.abc import Callable
from pathlib import Path

here = Path.cwd().resolve()
root = next((folder for folder in (here, *here.parents) if (folder / "vit_scratch").is_dir()), here)
sys.path.insert(0, str(root))
warnings.filterwarnings("ignore", message="IProgress not found")  # of a progress bar that nothing here shows

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import baselines
import vit_scratch
from experiments.config.loading import load_part
from experiments.data import datasets
from experiments.data.batches import EvaluationBatches, Normalise, TrainBatches
from experiments.data.decoding import decode
from experiments.data.splits import nested_subset
from experiments.metrics import classification_metrics
from experiments.training.optim import adamw, learning_rate
from experiments.training.steps import Update, evaluate, train_steps
from vit_scratch import MLP, EncoderBlock, MultiHeadSelfAttention, PatchEmbedding, VisionTransformer
from vit_scratch.attention import class_token_map

DATA = os.environ.get("DATA") or "digits"
if DATA not in ("digits", "pizza_steak_sushi"):
    raise ValueError(f"DATA must be digits or pizza_steak_sushi, got {DATA!r}")
STEPS = int(os.environ.get("STEPS") or {"digits": 700, "pizza_steak_sushi": 600}[DATA])
SEED = 0
torch.manual_seed(SEED)
if DATA == "digits":
    torch.set_num_threads(1)  # on 8 × 8 pixels, threads wait for each other longer than they work
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
plt.rcParams.update({"figure.dpi": 100, "image.cmap": "viridis", "axes.grid": False})
print(f"data {DATA}, {STEPS} steps, torch {torch.__version__} on {device}")


def show_source(function: Callable[..., object]) -> None:
    """Print the code of a function without its docstring."""
    source = textwrap.dedent(inspect.getsource(function))
    print(re.sub(r'\n +""".*?"""', "", source, count=1, flags=re.DOTALL))


# %% [markdown]
# ## The images
#
# The photos lie in one archive. The project's downloader fetches it with `requests` (going on where a connection broke),
# checks it against the id under which git stores it, and unpacks it with `zipfile` after a look at every name in it. What is
# there already is not fetched again, and a file that you put there by hand is checked and used.

# %%
if DATA == "pizza_steak_sushi":
    from experiments.data.pizza_steak_sushi import fetched

    folder = fetched("pizza_steak_sushi")
    for split in ("train", "test"):
        print(split, {place.name: len(list(place.glob("*.jpg"))) for place in sorted((folder / split).iterdir())})

data = load_part("data", DATA)
dataset = datasets.load(data)
classes = dataset.class_names
print(f"{data.title}: {len(dataset.pool)} images to learn from, {len(dataset.test)} to test, {len(classes)} classes")
assert dataset.pool.pixels.shape[1:] == (data.channels, data.image_size, data.image_size)

# %% [markdown]
# For the shapes of the paper's ViT-Base we need one photo of 224 × 224 pixels: a plate from the photos, or a photo that
# scikit-learn ships.

# %%
if DATA == "pizza_steak_sushi":
    path = sorted((folder / "train" / "pizza").glob("*.jpg"))[0]
else:
    import sklearn.datasets

    path = Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"
photo = decode(path, 224, 3)
assert photo.shape == (3, 224, 224) and photo.dtype == np.uint8

normalise = Normalise([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], torch.device("cpu"))
images = normalise(torch.from_numpy(photo)[None])  # a batch of one
assert images.shape == (1, 3, 224, 224)

# %% [markdown]
# ## Shapes, by hand first
#
# An image of $H \times W$ pixels and $C$ channels is cut into $N = HW/P^2$ patches of $P \times P$ pixels. A patch is a vector
# of $P^2 C$ numbers. With the class token there are $N + 1$ tokens of width $D$.
#
# For ViT-Base/16 at 224 pixels: $N = 224 \cdot 224 / 16^2 = 196$, so 197 tokens; $P^2 C = 16 \cdot 16 \cdot 3 = 768$, which
# happens to be ViT-Base's $D$ as well.

# %%
height = width = 224
patch, channels, dim = 16, 3, 768
n_patches = height * width // patch**2
assert n_patches == 196
assert patch**2 * channels == 768
print(f"{n_patches} patches + 1 class token = {n_patches + 1} tokens of width {dim}")

# %% [markdown]
# The photo as a transformer meets it: first as one row of patches, then as all 14 × 14.

# %%
rows = columns = height // patch
pixels = photo.transpose(1, 2, 0)
patches = pixels.reshape(rows, patch, columns, patch, 3).swapaxes(1, 2)  # row column height width channel
assert patches.shape == (14, 14, 16, 16, 3)

figure, axes = plt.subplots(1, columns, figsize=(12, 1.1))
for axis, tile in zip(axes, patches[rows // 2], strict=True):
    axis.imshow(tile)
    axis.axis("off")
figure.suptitle("one row of patches", fontsize=9)

spaced = np.pad(patches, ((0, 0), (0, 0), (2, 2), (2, 2), (0, 0)), constant_values=255)  # a white frame around each
figure, axis = plt.subplots(figsize=(5, 5))
axis.imshow(spaced.swapaxes(1, 2).reshape(rows * (patch + 4), columns * (patch + 4), 3))
axis.set_title("14 × 14 patches, 196 “words”", fontsize=9)
axis.axis("off")
plt.show()

# %% [markdown]
# ## Equation 1: patches become tokens
#
# $$\mathbf{z}_0 = [\,\mathbf{x}_\text{class};\; \mathbf{x}^1_p\mathbf{E};\; \mathbf{x}^2_p\mathbf{E};\; \cdots;\;
# \mathbf{x}^N_p\mathbf{E}\,] + \mathbf{E}_{pos}, \qquad \mathbf{E} \in \mathbb{R}^{(P^2 C) \times D},\quad
# \mathbf{E}_{pos} \in \mathbb{R}^{(N+1) \times D} \tag{1}$$
#
# Multiplying every flattened patch by one matrix $\mathbf{E}$ is a convolution whose kernel and stride are the patch.

# %%
embedding = PatchEmbedding((224, 224), (16, 16), in_channels=3, dim=768)
show_source(PatchEmbedding.forward)

# %% [markdown]
# The convolution gives 768 feature maps of 14 × 14. A few of them, before any training; then the same numbers by the matrix.

# %%
with torch.no_grad():
    maps = embedding.projection(images)
assert maps.shape == (1, 768, 14, 14)

figure, axes = plt.subplots(1, 6, figsize=(12, 2.2))
for axis, index in zip(axes, (0, 100, 200, 300, 400, 500), strict=True):
    axis.imshow(maps[0, index])
    axis.set_title(f"feature map {index}", fontsize=8)
    axis.axis("off")
plt.show()

with torch.no_grad():
    flattened = F.unfold(images, kernel_size=16, stride=16).transpose(1, 2)  # B (C P P) N → B N (P P C)
    matrix = embedding.projection.weight.flatten(1).T  # E
    by_matrix = flattened @ matrix + embedding.projection.bias
    by_convolution = maps.flatten(2).transpose(1, 2)
assert flattened.shape == (1, 196, 768) and matrix.shape == (768, 768)
assert by_matrix.shape == by_convolution.shape == (1, 196, 768)
assert torch.allclose(by_matrix, by_convolution, atol=1e-4)
print("the convolution is the matrix product: largest difference", f"{(by_matrix - by_convolution).abs().max():.1e}")

# %% [markdown]
# The sequence of patch embeddings, the class token before it, and a position embedding added to each.

# %%
with torch.no_grad():
    z0 = embedding(images)
    by_hand = torch.cat([embedding.cls_token, by_convolution], dim=1) + embedding.pos_embedding
assert embedding.cls_token.shape == (1, 1, 768) and embedding.pos_embedding.shape == (1, 197, 768)
assert z0.shape == (1, 197, 768)
assert torch.equal(z0, by_hand)

figure, axis = plt.subplots(figsize=(10, 2.6))
axis.imshow(z0[0].numpy(), aspect="auto")
axis.set(xlabel="width D", ylabel="token", title="z₀: 197 tokens of width 768")
plt.show()

# %% [markdown]
# ## Equation 2: every token looks at every token
#
# $$\mathbf{z}'_\ell = \text{MSA}(\text{LN}(\mathbf{z}_{\ell-1})) + \mathbf{z}_{\ell-1}, \qquad \ell = 1 \ldots L \tag{2}$$
#
# with, for each of $k$ heads of width $D_h = D/k$ (the paper's appendix A),
#
# $$[\mathbf{q}, \mathbf{k}, \mathbf{v}] = \mathbf{z}\mathbf{U}_{qkv}, \qquad
# A = \text{softmax}\!\left(\mathbf{q}\mathbf{k}^\top / \sqrt{D_h}\right), \qquad \text{SA}(\mathbf{z}) = A\mathbf{v}.$$

# %%
attention = MultiHeadSelfAttention(dim=768, num_heads=12).eval()
show_source(MultiHeadSelfAttention.forward)

# %% [markdown]
# `forward` hands the formula to PyTorch's fused kernel. Written out, it is three lines, and the two agree:

# %%
with torch.no_grad():
    tokens = nn.LayerNorm(768, eps=1e-6)(z0)
    queries, keys, values = attention.qkv(tokens).reshape(1, 197, 3, 12, 64).permute(2, 0, 3, 1, 4)
    assert queries.shape == keys.shape == values.shape == (1, 12, 197, 64)

    scores = queries @ keys.transpose(-2, -1) / 64**0.5
    A = scores.softmax(dim=-1)
    written_out = A @ values

    fused = F.scaled_dot_product_attention(queries, keys, values)
    output = attention(tokens)
assert A.shape == (1, 12, 197, 197) and torch.allclose(A.sum(dim=-1), torch.ones(1, 12, 197))
assert torch.allclose(written_out, fused, atol=1e-5)
assert torch.allclose(A, attention.weights(tokens), atol=1e-6)
joined = written_out.transpose(1, 2).flatten(2)  # 12 heads of 64 side by side: 768 again
assert joined.shape == (1, 197, 768)
assert torch.allclose(attention.projection(joined), output, atol=1e-5)
assert output.shape == z0.shape
print("softmax(QKᵀ/√d)V against the fused kernel: largest difference", f"{(written_out - fused).abs().max():.1e}")

# %% [markdown]
# ## Equation 3: every token by itself
#
# $$\mathbf{z}_\ell = \text{MLP}(\text{LN}(\mathbf{z}'_\ell)) + \mathbf{z}'_\ell, \qquad \ell = 1 \ldots L \tag{3}$$
#
# The MLP has two linear layers with a GELU between them; in ViT-Base the inner one is 4 × 768 = 3072 wide. Equations 2 and 3
# together are one block of the encoder (the paper's Figure 1, right).

# %%
mlp = MLP(768, 3072)
block = EncoderBlock(attention, mlp, 768).eval()
print(mlp, "\n")
show_source(EncoderBlock.forward)
with torch.no_grad():
    z_prime = attention(block.norm1(z0)) + z0  # Equation 2
    z1 = mlp(block.norm2(z_prime)) + z_prime  # Equation 3
    assert mlp.fc1(z0).shape == (1, 197, 3072)
    assert torch.equal(block(z0), z1)
assert z1.shape == z0.shape == (1, 197, 768)

# %% [markdown]
# ## Equation 4: the class token becomes the answer
#
# $$\mathbf{y} = \text{LN}(\mathbf{z}_L^0) \tag{4}$$
#
# After $L$ blocks, the class token alone is normalised and read by a linear head. The whole model is ViT-Base, from Table 1:

# %%
for name in ("base", "large", "huge"):
    print(f"{name:6}", vit_scratch.VARIANTS[name]._asdict())
model = vit_scratch.build("base", image_size=224, patch_size=16, num_classes=3).eval()
show_source(VisionTransformer.forward_features)
with torch.no_grad():
    z = model.embedding(images)
    for layer in model.blocks:
        z = layer(z)
    y = model.norm(z)[:, 0]
    logits = model.head(y)
    assert torch.allclose(logits, model(images), atol=1e-5)
assert len(model.blocks) == 12 and y.shape == (1, 768) and logits.shape == (1, 3)

# %% [markdown]
# `torchinfo` walks through the model and counts; our own count is one line. Both must say 85,800,963 parameters for 3 classes.

# %%
from torchinfo import summary

report = summary(
    model, input_size=(1, 3, 224, 224), depth=2, verbose=0, col_names=("input_size", "output_size", "num_params")
)
print(report)
counted = sum(parameter.numel() for parameter in model.parameters())
assert counted == report.total_params == 85_800_963
print(f"{counted:,} parameters, by both counts")

# %% [markdown]
# ### Where dropout goes (appendix B.1)
#
# It follows every linear layer except those that make queries, keys and values, and the sum of patch and position embeddings.
# That is 1 place, and 3 more per block: one behind the attention's projection, two in the MLP.

# %%
dropped = vit_scratch.build("base", depth=2, image_size=224, patch_size=16, num_classes=3, drop_rate=0.1)  # 2 blocks will do
places = [name for name, layer in dropped.named_modules() if isinstance(layer, nn.Dropout) and layer.p > 0]
assert places[0] == "embedding.dropout" and len(places) == 1 + 2 * 3
assert [name for name in places if name.startswith("blocks.0.")] == [
    "blocks.0.attention.dropout",
    "blocks.0.mlp.dropout1",
    "blocks.0.mlp.dropout2",
]
with torch.no_grad():
    assert torch.equal(dropped.eval()(images), dropped(images)), "no dropout in evaluation"
    assert not torch.equal(dropped.train()(images), dropped(images)), "dropout in training"
del dropped, model

# %% [markdown]
# ## Training for real
#
# A small Vision Transformer from scratch, and a small ResNet from timm as the yardstick: the same images in the same order, the
# same optimiser, the same number of steps. A tenth of the images for learning is held back to look at on the way; the test
# images are looked at once, at the end.

# %%
recipe = load_part("recipes", {"digits": "digits", "pizza_steak_sushi": "photos"}[DATA])
sizes = {"image_size": data.image_size, "in_channels": data.channels, "num_classes": len(classes)}
small = {
    "digits": {"variant": "micro", "patch_size": 2},
    "pizza_steak_sushi": {"variant": "tiny", "patch_size": 8, "dim": 96, "depth": 6},
}[DATA]


def new_model(name: str) -> nn.Module:
    """One of the two models, with fresh weights of the same seed."""
    torch.manual_seed(SEED)
    if name == "ViT":
        return vit_scratch.build(**small, **sizes)
    return baselines.create("test_resnet", stem="small" if DATA == "digits" else "native", **sizes)[0]


subset = nested_subset(dataset.pool.labels, 1.0, SEED)
normalise = Normalise(data.mean, data.std, device)
train_set, val_set = dataset.pool.take(subset.train), dataset.pool.take(subset.val)
batches = TrainBatches(
    train_set, normalise, batch_size=recipe.batch_size, seed=SEED, augmentation=recipe.augmentation, device=device
)
validation = EvaluationBatches(val_set, normalise, device=device)


def rate(step: int) -> float:
    """Linear warm-up, then cosine."""
    peak, floor = recipe.learning_rate, recipe.min_learning_rate
    return learning_rate(step, steps=STEPS, peak=peak, floor=floor, warmup_fraction=recipe.warmup_fraction)


def train(model: nn.Module, looks: int = 10) -> list[dict[str, float]]:
    """Train to the last step, evaluating validation on the way."""
    optimizer = adamw(model, weight_decay=recipe.weight_decay, betas=tuple(recipe.betas))
    borders = np.linspace(0, STEPS, looks + 1).astype(int)
    curve = []
    update = Update(rate, SEED, label_smoothing=recipe.label_smoothing, clip_grad_norm=recipe.clip_grad_norm)
    for start, stop in itertools.pairwise(borders):
        loss_sum = torch.zeros((), device=device)
        train_steps(model, optimizer, batches, range(start, stop), update, loss_sum=loss_sum)
        found = classification_metrics(evaluate(model, validation, device=device), val_set.labels)
        curve.append({"step": int(stop), "loss": loss_sum.item() / (stop - start), "top1": found["top1"]})
    return curve


trained, curves = {}, {}
for name in ("ViT", "ResNet"):
    began = time.perf_counter()
    trained[name] = new_model(name).to(device)
    curves[name] = train(trained[name])
    n_params = sum(parameter.numel() for parameter in trained[name].parameters())
    last = curves[name][-1]
    print(f"{name}: {n_params:,} parameters, {STEPS} steps in {time.perf_counter() - began:.0f} s, loss {last['loss']:.3f}")
    assert last["loss"] < curves[name][0]["loss"], f"{name} does not learn"

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.2))
for name, curve in curves.items():
    at = [point["step"] for point in curve]
    axes[0].plot(at, [point["loss"] for point in curve], marker="o", markersize=3, label=name)
    axes[1].plot(at, [100 * point["top1"] for point in curve], marker="o", markersize=3, label=name)
axes[0].set(xlabel="step", ylabel="training loss")
axes[1].set(xlabel="step", ylabel="validation accuracy (%)")
axes[1].legend()
plt.show()

# %% [markdown]
# ## Tested once

# %%
test = dataset.test
test_batches = EvaluationBatches(test, normalise, device=device)
answers = {name: evaluate(model, test_batches, device=device) for name, model in trained.items()}
accuracy = {name: classification_metrics(given, test.labels)["top1"] for name, given in answers.items()}
for name, share in accuracy.items():
    margin = 1.96 * (share * (1 - share) / len(test)) ** 0.5
    print(f"{name}: {share:.1%} of {len(test)} test images (± {margin:.1%} from the number of images alone)")
print(json.dumps({"test/top1": accuracy, "steps": STEPS}))

# %% [markdown]
# Which classes does the ViT take for which? And four test images that it got wrong.

# %%
guesses = answers["ViT"].argmax(axis=1)
confusion = np.zeros((len(classes), len(classes)), int)
np.add.at(confusion, (test.labels, guesses), 1)
assert confusion.sum() == len(test)

figure, axis = plt.subplots(figsize=(4.6, 4.2))
axis.imshow(confusion, cmap="Blues")
for (truth, guess), count in np.ndenumerate(confusion):
    axis.text(
        guess, truth, count, ha="center", va="center", fontsize=8, color="white" if count > confusion.max() / 2 else "black"
    )
axis.set(xlabel="ViT says", ylabel="truth", xticks=range(len(classes)), yticks=range(len(classes)))
axis.set_xticklabels(classes, rotation=45)
axis.set_yticklabels(classes)
plt.show()


def shown(image: np.ndarray) -> np.ndarray:
    """uint8 channels first → what a plot takes."""
    return np.broadcast_to(image.transpose(1, 2, 0), (*image.shape[1:], 3))


wrong = np.flatnonzero(guesses != test.labels)[:4]
if len(wrong):
    figure, axes = plt.subplots(1, 4, figsize=(10, 2.8))
    for axis in axes:
        axis.axis("off")
    for axis, index in zip(axes, wrong, strict=False):
        axis.imshow(shown(test.pixels[index]))
        axis.set_title(f"{classes[test.labels[index]]}, taken for {classes[guesses[index]]}", fontsize=8)
    plt.show()

# %% [markdown]
# ## What it looks at
#
# **Attention rollout** (Abnar & Zuidema, [arXiv:2005.00928](https://arxiv.org/abs/2005.00928)): average the heads, count the
# residual connection as looking at oneself, multiply over the blocks. The row of the class token says how much of the answer
# comes from each patch.

# %%
vit = trained["ViT"].cpu().eval()
chosen = test.take(np.unique(test.labels, return_index=True)[1][:6])
inputs = Normalise(data.mean, data.std, torch.device("cpu"))(torch.from_numpy(np.array(chosen.pixels)))
with torch.no_grad():
    layers = vit.attention_maps(inputs)
    looked = class_token_map(layers, vit.embedding.grid_size)
grid = data.image_size // small["patch_size"]
assert len(layers) == len(vit.blocks) and looked.shape == (len(chosen), grid, grid)
assert torch.allclose(looked.sum(dim=(1, 2)), torch.ones(len(chosen)), atol=1e-5)

figure, axes = plt.subplots(2, len(chosen), figsize=(2 * len(chosen), 4.2), squeeze=False)
for column, (image, share) in enumerate(zip(chosen.pixels, looked, strict=True)):
    axes[0, column].imshow(shown(image))
    axes[0, column].set_title(classes[chosen.labels[column]], fontsize=9)
    axes[1, column].imshow(share, cmap="magma")
    axes[0, column].axis("off")
    axes[1, column].axis("off")
figure.suptitle("images, and where the class token's answer comes from", fontsize=9)
plt.show()

# %% [markdown]
# ## What it learned about places and patches
#
# The paper's Figure 7, of our own model. Left: principal components of the filters of the patch embedding. Right: how alike the
# position embedding of one patch is to all others (cosine), one small picture per patch. With enough training, neighbours in
# the image become neighbours here, which nobody told the model.

# %%
filters = vit.embedding.projection.weight.detach()  # D C P P
components = torch.linalg.svd(filters.flatten(1) - filters.flatten(1).mean(dim=0), full_matrices=False).Vh
count = min(16, len(components))
figure, axes = plt.subplots(2, (count + 1) // 2, figsize=(8, 2.4), squeeze=False)
for axis in axes.flat:
    axis.axis("off")
for axis, component in zip(axes.flat, components[:count], strict=False):
    picture = component.unflatten(0, filters.shape[1:]).permute(1, 2, 0)  # C P P → P P C
    picture = (picture - picture.min()) / (picture.max() - picture.min())
    axis.imshow(picture, cmap="gray")
figure.suptitle(f"first {count} principal components of the patch embedding", fontsize=9)

positions = vit.embedding.pos_embedding.detach()[0, 1:]
similarity = F.cosine_similarity(positions[:, None], positions[None], dim=-1)
assert similarity.shape == (grid**2, grid**2) and torch.allclose(similarity.diag(), torch.ones(grid**2), atol=1e-5)
spaced = np.pad(similarity.reshape(grid, grid, grid, grid), ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
figure, axis = plt.subplots(figsize=(5, 4.4))
drawn = axis.imshow(spaced.swapaxes(1, 2).reshape(grid * (grid + 1), grid * (grid + 1)), vmin=-1, vmax=1)
axis.set_title("similarity of position embeddings", fontsize=9)
axis.axis("off")
figure.colorbar(drawn, label="cosine")
plt.show()

# %% [markdown]
# ## From one run to a result
#
# One run with one seed says little: the margins above are wide, and another seed moves the number. The project's experiments
# repeat this for several seeds and amounts of data, prove that the settings were equal, and print intervals:
#
# ```sh
# make experiment NAME=vit_small_data     # on the digits
# make experiment NAME=vit_pizza_small    # on the photos
# ```

# %%
print(f"All shapes hold. ViT {accuracy['ViT']:.1%}, ResNet {accuracy['ResNet']:.1%} after {STEPS} steps.")
