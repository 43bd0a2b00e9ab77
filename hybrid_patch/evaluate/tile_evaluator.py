"""What an evaluation makes of a validation tile: counts of predictions, figures without labels, and what is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybrid_patch.config.schema import Evaluation
from hybrid_patch.embed.trained_model import TrainedModel
from hybrid_patch.evaluate.classifiers import HEAD, Fitted
from hybrid_patch.evaluate.features import Features, Tile
from hybrid_patch.evaluate.head_scores import NumberErrors, predicted_classes
from hybrid_patch.evaluate.pictures import DrawnTile
from hybrid_patch.evaluate.results import Results
from hybrid_patch.evaluate.unsupervised import StructureAccumulator
from hybrid_patch.runs.stop_signal import Check

EMBEDDING = "embedding"


class Figures:
    """What is accumulated over tiles."""

    def __init__(self, model: TrainedModel, classes: Sequence[str], settings: Evaluation) -> None:
        self.results = Results(classes, settings.scored_pixels)
        self.structure = StructureAccumulator(model.sizes.processing, model.tiling())
        self.numbers = NumberErrors()
        self.drawn: list[DrawnTile] = []

    def merge(self, other: "Figures") -> None:
        """Add what another has accumulated of other tiles."""
        self.results.merge(other.results)
        self.structure.merge(other.structure)
        self.numbers.merge(other.numbers)
        self.drawn += other.drawn


def is_mapped(number: int, settings: Evaluation) -> bool:
    """Whether the validation tile of a number is embedded as a map too."""
    return settings.map_tiles is None or number < settings.map_tiles


@dataclass(frozen=True)
class TileEvaluator:
    """Evaluates tiles, several threads at once, by the features of each kind and its classifiers, and by the head."""

    model: TrainedModel
    classes: Sequence[str]
    settings: Evaluation
    features_of: Mapping[str, Features]
    classifiers: Mapping[str, Sequence[Fitted]]
    with_head: bool
    check: Check

    def evaluate(self, numbered: tuple[int, Tile]) -> Figures:
        """The figures of a tile of a number; the first `pictures` are to be drawn."""
        number, tile = numbered
        figures = Figures(self.model, self.classes, self.settings)
        for kind, of_tile in self.features_of.items():
            if kind not in self.classifiers and kind != EMBEDDING:
                continue
            values = of_tile(tile)
            predicted = figures.results.add(kind, self.classifiers.get(kind, ()), tile, number, values)
            if kind == EMBEDDING:
                figures.structure.add(values, tile.valid_mask)
                if is_mapped(number, self.settings):
                    self._add_maps(figures.structure, tile)
                if number < self.settings.pictures:
                    figures.drawn.append(DrawnTile(tile, values, predicted))
        if self.with_head:
            self._add_head(figures, tile)
        return figures

    def _add_head(self, figures: Figures, tile: Tile) -> None:
        """Score what the model's own head predicts."""
        predicted = self.model.predict_whole(tile.whole, self.model.tiling(), self.check)
        if tile.numbers is not None:
            figures.numbers.add(tile.group, tile.numbers, predicted[..., 0])
        elif self.classes and tile.labels is not None and not tile.pooled:
            figures.results.add_map(EMBEDDING, HEAD, tile, predicted_classes(predicted, tile))

    def _add_maps(self, structure: StructureAccumulator, tile: Tile) -> None:
        """Embed a tile as for a map, and again from half a stride on; mirrored if it is small."""
        image = tile.whole.mirrored(structure.windows.least_side, structure.windows.least_side)
        valid_mask = image.any_valid(self.model.inputs)
        parts = structure.windows.parts(*valid_mask.shape)
        whole, shifted = (
            self.model.embed_whole(image.window(part), self.model.tiling(), self.settings.pooling, self.check)
            for part in parts
        )
        structure.windows.add(whole, shifted, valid_mask[parts[0].slices])
