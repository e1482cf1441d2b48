"""GeoTIFFs with drawn cracks, for tests of orthomosaics."""

import numpy as np
import rasterio
from rasterio.transform import Affine
from small_models import wall

UTM = Affine(0.002 * 0.75**0.5, 0.001, 500_000, 0.001, -0.002 * 0.75**0.5, 5_400_000)  # 2 mm, rotated by 30 degrees


def write_tiff(path, bands, transform=UTM, crs="EPSG:32632", **profile):
    """(bands, H, W) or (H, W, 3) as a GeoTIFF; returns its path."""
    bands = bands.transpose(2, 0, 1) if bands.shape[-1] == 3 else bands
    count, height, width = bands.shape
    shape = {"height": height, "width": width, "count": count, "dtype": bands.dtype}
    with rasterio.open(path, "w", "GTiff", **shape, transform=transform, crs=crs, **profile) as dataset:
        dataset.write(bands)
    return path


def cracked_wall(side=320):
    """A wall with a crack across it, another one down, which cross the borders of tiles, and a short one."""
    image = wall(side, side)
    image[side // 4 :, side // 4 : side // 4 + 3] = 20
    image[side - 40 : side - 36, side // 2 : side // 2 + 30] = 20
    return image


def footprint(side=320):
    """Where there is data: not in the upper left corner, where a stripe as dark as a crack lies."""
    valid = np.ones((side, side), bool)
    valid[: side // 4, : side // 2] = False
    return valid
