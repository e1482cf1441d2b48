"""Generate an inspection flight: photographs of a concrete wall as a drone takes them, some with cracks.

    python examples/inspection_flight.py flight
    python xai.py --image flight --all --style mask --report --distance 2 --sensor-width 13.2

They carry the EXIF metadata of a camera: time, place, altitude, focal length. flight_truth.csv, beside the folder,
says which show a crack, and how wide it was drawn.
"""

import argparse
import csv
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

sys.path.insert(0, str(Path(__file__).parents[1]))

from crackcam.data.synthetic.camera import illumination, simulate_camera
from crackcam.data.synthetic.cracks import CrackLimits, fractal_crack
from crackcam.data.synthetic.distractors import boards, joint, spots, stain
from crackcam.data.synthetic.surfaces import concrete

WIDTH, HEIGHT = 2400, 1600  # pixels
FOCAL_LENGTH_MM, SENSOR_WIDTH_MM, DISTANCE_M = 24.0, 13.2, 2.0  # 0.46 mm a pixel
START, TAKE_OFF = (46.9481, 7.4474, 540.0), datetime(2026, 5, 4, 9, 30)  # latitude, longitude, altitude
ROW, SPACING_M = 6, 0.9  # photographs in a row along the wall, and between their centres
METRES_OF_A_DEGREE = 111_320.0


def photograph(rng: np.random.Generator, width: float | None) -> np.ndarray:
    """Concrete with what walls have on them, and a crack of that mean width in pixels: (HEIGHT, WIDTH, 3) uint8."""
    light = rng.uniform(0, 2 * np.pi)
    tone, colour = concrete(rng, WIDTH)
    for distractor, probability in ((boards, 0.3), (joint, 0.3), (stain, 0.4), (spots, 0.5)):
        if rng.random() < probability:
            tone = distractor(rng, tone, light)
    if width is not None:
        tone, _ = fractal_crack(rng, tone, light, CrackLimits(width, width, 0.5))
    top = (WIDTH - HEIGHT) // 2
    scene = (tone * illumination(rng, WIDTH))[top : top + HEIGHT, :, None] * colour
    return simulate_camera(rng, scene)


def metadata(number: int) -> Image.Exif:
    """What the camera writes about the photograph of that number."""
    exif = Image.Exif()
    exif[Base.Make], exif[Base.Model] = "crackcam", "generated"
    exif.get_ifd(IFD.Exif).update(
        {
            Base.DateTimeOriginal: f"{TAKE_OFF + timedelta(seconds=7 * number):%Y:%m:%d %H:%M:%S}",
            Base.FocalLength: IFDRational(FOCAL_LENGTH_MM),
        }
    )
    latitude, longitude, altitude = START
    row, column = divmod(number, ROW)
    longitude += column * SPACING_M / (METRES_OF_A_DEGREE * np.cos(np.radians(latitude)))
    latitude += row * SPACING_M / METRES_OF_A_DEGREE
    exif.get_ifd(IFD.GPSInfo).update(
        {
            GPS.GPSLatitudeRef: "N",
            GPS.GPSLatitude: sexagesimal(latitude),
            GPS.GPSLongitudeRef: "E",
            GPS.GPSLongitude: sexagesimal(longitude),
            GPS.GPSAltitudeRef: b"\0",
            GPS.GPSAltitude: IFDRational(round(100 * (altitude + row * SPACING_M)), 100),
        }
    )
    return exif


def sexagesimal(degrees: float) -> tuple[IFDRational, ...]:
    """Degrees, minutes and seconds."""
    minutes = degrees % 1 * 60
    return IFDRational(int(degrees)), IFDRational(int(minutes)), IFDRational(round(minutes % 1 * 60 * 10_000), 10_000)


def write_flight(folder: Path, count: int, seed: int) -> None:
    """Write the photographs, a third of them with a crack, and the truth beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        width = round(float(rng.uniform(2.5, 9)), 1) if number % 3 == 1 else None
        name = f"DJI_{number + 1:04}.JPG"
        Image.fromarray(photograph(rng, width)).save(folder / name, "JPEG", quality=92, exif=metadata(number))
        truth.append({"image": name, "crack": width is not None, "width_px": width})
    with folder.with_name(f"{folder.name}_truth.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(truth[0]))
        writer.writeheader()
        writer.writerows(truth)


def main() -> None:
    """Write a flight."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_flight(args.folder, args.count, args.seed)
    print(
        f"python xai.py --image {args.folder} --all --style mask --report "
        f"--distance {DISTANCE_M:g} --sensor-width {SENSOR_WIDTH_MM:g}"
    )


if __name__ == "__main__":
    main()
