"""RF-DETR of the package `rfdetr`, exported by the package itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.references.case import CONFIDENCE, Case
from tests.references.pictures import PLAIN, drawn
from tests.references.random_weights import NEARLY, numbers, run_file, spread

LABELS = ("bolt", "nut", "washer", "gear", "pin")


def case_of(kind: str, path: Path) -> Case:
    """Export it to this path, and run it as the package does. `kind`: a class of the package."""
    import rfdetr
    import torchvision.transforms.functional as transforms
    from rfdetr.models.postprocess import PostProcess

    torch.manual_seed(3)
    model = getattr(rfdetr, kind)(pretrain_weights=None, num_classes=len(LABELS), device="cpu")
    network, side = model.model.model.eval(), model.model.resolution
    picture = drawn(PLAIN)
    pixels = numbers(np.ascontiguousarray(picture[..., ::-1].transpose(2, 0, 1)))
    resized = transforms.resize(pixels, [side, side], antialias=False)
    given = transforms.normalize(resized, model.means, model.stds)[None]
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if "bbox_embed" in name and name.endswith("layers.2.weight"):
                weights.normal_(std=0.2)
    spread(lambda: network(given), [network.class_embed], 1.5)
    with torch.no_grad():
        logits = network(given)["pred_logits"][..., : len(LABELS)]
        best = logits.amax(-1).flatten().sort(descending=True).values
        network.class_embed.bias.sub_(float(best[30]) - NEARLY)

    folder = path.with_suffix("")
    model.export(output_dir=str(folder), format="onnx", verbose=False)
    next(folder.glob("**/*.onnx")).replace(path)
    outputs = run_file(path, input=given.numpy())

    boxes, scores, *masks = map(torch.from_numpy, outputs)
    # The last column is that of no object, which the package's own code for ONNX files leaves out.
    found = {"pred_boxes": boxes, "pred_logits": scores[..., : len(LABELS)]}
    if masks:
        found["pred_masks"] = masks[0]
    choose = PostProcess(num_select=model.model.postprocess.num_select)
    result = choose(found, torch.tensor([picture.shape[:2]]))[0]
    chosen = result["scores"] > CONFIDENCE
    return Case(
        picture=picture,
        input=given.numpy(),
        outputs=outputs,
        boxes=result["boxes"][chosen].numpy(),
        scores=result["scores"][chosen].numpy(),
        classes=result["labels"][chosen].numpy(),
        masks=result["masks"][chosen][:, 0].numpy() if masks else None,
        labels=LABELS,
    )
