"""Clouds of points: an attention that is handed coordinates, to which any model's own layers can hand theirs, and a
small transformer made of it. What says where a point is, is an encoding that is attached:

>>> model = PointTransformer(PointConfig(classes=12))
>>> whorl.attach(model, "spe:radius=0.4,neighbours=16")
>>> model(coordinates).logits  # coordinates [clouds, points, 3]
"""

from whorl.encodings.point_codes import codes, medoids
from whorl.points.attention import PointAttention
from whorl.points.transformer import Classified, PointConfig, PointTransformer

__all__ = ["Classified", "PointAttention", "PointConfig", "PointTransformer", "codes", "medoids"]
