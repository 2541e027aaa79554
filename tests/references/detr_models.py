"""RT-DETR and D-FINE of the package `transformers`, and the forms that other exporters give them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image
from torch import nn

from tests.references.case import CONFIDENCE, Case
from tests.references.pictures import ODD, PLAIN, drawn
from tests.references.random_weights import NEARLY, run_file, spread

LABELS = ("bolt", "nut", "washer", "gear", "pin")
_QUERIES = 100
_SMALL = {
    "d_model": 64,
    "encoder_hidden_dim": 64,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "decoder_layers": 2,
    "num_queries": _QUERIES,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_denoising": 0,
    "encoder_in_channels": [64, 128, 256],
    "decoder_in_channels": [64, 64, 64],
    "num_labels": len(LABELS),
}
_STAGES = ["stage2", "stage3", "stage4"]


class Detr:
    """One network, its own processor, and one picture."""

    def __init__(self, kind: str, *, odd: bool = False) -> None:
        """`kind`: rtdetr, rtdetr-v2 or dfine."""
        import transformers

        torch.manual_seed(3)
        self.size = (256, 416) if odd else (320, 320)  # height, width
        self.picture = drawn(ODD if odd else PLAIN, 2 if odd else 1)
        self.network = _network(kind)
        self.processor = transformers.RTDetrImageProcessor(
            size={"height": self.size[0], "width": self.size[1]}
        )
        picture = Image.fromarray(np.ascontiguousarray(self.picture[..., ::-1]))
        self.given = self.processor(images=picture, return_tensors="pt")["pixel_values"]
        self._randomize()

    def plain(self, path: Path) -> Case:
        """Logits and boxes, as they are."""
        _export(_Plain(self.network), (self.given,), path, ["pixel_values"], ["logits", "pred_boxes"])
        outputs = run_file(path, pixel_values=self.given.numpy())
        named = SimpleNamespace(logits=torch.from_numpy(outputs[0]), pred_boxes=torch.from_numpy(outputs[1]))
        found = self.processor.post_process_object_detection(
            named, threshold=CONFIDENCE, target_sizes=[self.picture.shape[:2]]
        )[0]
        return self._case(outputs, found["boxes"].numpy(), found["scores"].numpy(), found["labels"].numpy())

    def deployed(self, path: Path) -> Case:
        """Classes, boxes and scores, as the repositories of RT-DETR and D-FINE export them."""
        height, width = self.picture.shape[:2]
        sizes = torch.tensor([[width, height]])
        _export(
            _Deployed(self.network),
            (self.given, sizes),
            path,
            ["images", "orig_target_sizes"],
            ["labels", "boxes", "scores"],
            {"images": {0: "N"}, "orig_target_sizes": {0: "N"}},
        )
        classes, boxes, scores = run_file(path, images=self.given.numpy(), orig_target_sizes=sizes.numpy())
        chosen = scores[0] > CONFIDENCE
        # Ours passes the size of the input, and gets boxes in its pixels.
        own = np.array([[self.size[1], self.size[0]]])
        outputs = run_file(path, images=self.given.numpy(), orig_target_sizes=own)
        return self._case(outputs, boxes[0][chosen], scores[0][chosen], classes[0][chosen])

    def scored(self, path: Path) -> Case:
        """Boxes and a score for each class, as earlier versions of `ultralytics` exported RT-DETR."""
        _export(_Scored(self.network), (self.given,), path, ["images"], ["output0"])
        file = onnx.load(path)
        names = str(dict(enumerate(LABELS)))
        said = {
            "description": "Ultralytics rtdetr-l model trained on coco.yaml",
            "stride": "32",
            "names": names,
        }
        onnx.helper.set_model_props(file, said)
        onnx.save(file, path)
        outputs = run_file(path, images=self.given.numpy())
        rows = outputs[0][0]
        scores = rows[:, 4:].max(axis=1)
        chosen = scores > CONFIDENCE
        height, width = self.picture.shape[:2]
        boxes = _corners(torch.from_numpy(rows[chosen, :4])).numpy() * np.array(
            [width, height] * 2, np.float32
        )
        return self._case(outputs, boxes, scores[chosen], rows[chosen, 4:].argmax(axis=1), labels=())

    def _randomize(self) -> None:
        chance = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, weights in self.network.named_parameters():
                if "bbox_embed" in name and name.endswith(("layers.1.weight", "layers.2.weight")):
                    weights.copy_(torch.randn(weights.shape, generator=chance) * 0.3)
        last = [each for name, each in self.network.named_modules() if name.endswith("class_embed")][-1]
        last = last[-1] if isinstance(last, nn.ModuleList) else last
        spread(lambda: self.network(pixel_values=self.given), [last], 1.5)
        with torch.no_grad():  # D-FINE changes the logits afterwards
            best = (
                self.network(pixel_values=self.given).logits.amax(-1).flatten().sort(descending=True).values
            )
            last.bias.sub_(float(best[30]) - NEARLY)

    def _case(
        self,
        outputs: list[np.ndarray],
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        labels: tuple[str, ...] = LABELS,
    ) -> Case:
        return Case(
            picture=self.picture,
            input=self.given.numpy(),
            outputs=outputs,
            boxes=boxes,
            scores=scores,
            classes=classes.astype(np.int64),
            labels=labels,
        )


def _network(kind: str) -> Any:
    import transformers as models

    if kind == "dfine":
        backbone = models.HGNetV2Config(
            stem_channels=[3, 8, 16],
            stage_in_channels=[16, 32, 64, 128],
            stage_mid_channels=[8, 16, 32, 64],
            stage_out_channels=[32, 64, 128, 256],
            stage_num_blocks=[1, 1, 1, 1],
            stage_downsample=[False, True, True, True],
            stage_light_block=[False, False, True, True],
            stage_kernel_size=[3, 3, 5, 5],
            stage_numb_of_layers=[1, 1, 1, 1],
            embedding_size=16,
            hidden_sizes=[32, 64, 128, 256],
            depths=[1, 1, 1, 1],
            out_features=_STAGES,
        )
        return models.DFineForObjectDetection(models.DFineConfig(backbone_config=backbone, **_SMALL)).eval()
    backbone = models.RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[32, 64, 128, 256], depths=[2, 2, 2, 2], out_features=_STAGES
    )
    if kind == "rtdetr":
        return models.RTDetrForObjectDetection(models.RTDetrConfig(backbone_config=backbone, **_SMALL)).eval()
    return models.RTDetrV2ForObjectDetection(models.RTDetrV2Config(backbone_config=backbone, **_SMALL)).eval()


class _Plain(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.network(pixel_values=pixel_values)
        return found.logits, found.pred_boxes


class _Scored(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.network(pixel_values=images)
        return torch.cat([found.pred_boxes, found.logits.sigmoid()], -1)


class _Deployed(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, images: torch.Tensor, orig_target_sizes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        found = self.network(pixel_values=images)
        boxes = _corners(found.pred_boxes) * orig_target_sizes.repeat(1, 2).unsqueeze(1)
        scores, places = torch.topk(found.logits.sigmoid().flatten(1), _QUERIES, dim=-1)
        queries = places // len(LABELS)
        chosen = boxes.gather(1, queries.unsqueeze(-1).repeat(1, 1, 4))
        return places - queries * len(LABELS), chosen, scores


def _corners(boxes: torch.Tensor) -> torch.Tensor:
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def _export(
    model: nn.Module,
    given: tuple[torch.Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
    dynamic: dict[str, dict[int, str]] | None = None,
) -> None:
    torch.onnx.export(
        model,
        given,
        str(path),
        opset_version=17,
        input_names=inputs,
        output_names=outputs,
        dynamic_axes=dynamic,
        dynamo=False,
    )
