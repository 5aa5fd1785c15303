"""Ordinary pictures through four ways to the same network:

    python -m tests.benchmarks.differential [--pictures 200] [--write]

The app's /predict as gradio_client calls it, the same endpoint with a data: URI as curl would, mnv3.explain, and the
plain way: the RGB pixels that a viewer shows, through torchvision's transforms and the network in torch. Files of every
kind and mode as tests/strange_pictures.py draws them, and a few large JPEGs, which are decoded smaller. Prints the
largest difference of a probability between each way and the plain one (1e-3 is right, 0.03 for the large JPEGs) and how
often the likeliest class was another.
"""

import argparse
import base64
import io
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from tests.benchmarks.timing import keep

ROOT = Path(__file__).parents[2]
NETS = (("Small", "cifar10-small"), ("Large", "cifar10-large"))
LARGE = 6  # JPEGs of 12 megapixels


def drawn(count, seed, large=LARGE):
    """`count` files of strange_pictures.ordinary(), always the same, and `large` photographs."""
    import strange_pictures
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    files = []

    @seeded(seed)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(sent=strange_pictures.ordinary())
    def take(sent):
        files.append((sent.kind, sent.data, sent.seen))

    take()
    for number in range(large):
        Image.fromarray(strange_pictures.scene(4000, 3000, number)).save(file := io.BytesIO(), "JPEG", quality=95)
        files.append(("large JPEG", file.getvalue(), np.asarray(Image.open(file).convert("RGB"))))
    return files


@torch.inference_mode()
def plainly(checkpoint, seen):
    p = checkpoint.preprocessing
    mode = transforms.InterpolationMode(p.interpolation)
    way = transforms.Compose([transforms.Resize(p.resize, mode), transforms.CenterCrop(p.crop), transforms.ToTensor(),
                              transforms.Normalize(p.mean, p.std)])  # fmt: skip
    shares = checkpoint.model(way(Image.fromarray(np.ascontiguousarray(seen)))[None]).softmax(1)[0].tolist()
    return dict(zip(checkpoint.labels, shares, strict=True))


def answered(label):
    return {one["label"]: one["confidence"] for one in label["confidences"]}


def by_each_way(app, client, checkpoint, net, path):
    from gradio_client import handle_file

    import mnv3

    data = "data:application/octet-stream;base64," + base64.b64encode(path.read_bytes()).decode()
    found = mnv3.explain(checkpoint, path).probabilities.tolist()
    kind, answer = app.call("predict", {"url": data}, *net, 10)
    assert kind == "complete", answer
    shares = {"data: URI": answered(answer[0]), "mnv3.explain": dict(zip(checkpoint.labels, found, strict=True))}
    if client:
        shares["gradio_client"] = answered(client.predict(handle_file(path), *net, 10, api_name="/predict"))
    return shares


def compared(files, app, client, folder, nets=NETS):
    """For each file and way: (number, size, way, how far from the plain one, whether another class is likeliest)."""
    import mnv3

    checkpoints = {net: mnv3.load(net[1]) for net in nets}
    for number, (kind, data, seen) in enumerate(files):
        net = nets[number % len(nets)]
        path = Path(folder) / f"{number}.{kind.split()[-1].lower()}"
        path.write_bytes(data)
        plain, size = plainly(checkpoints[net], seen), "large JPEG" if kind == "large JPEG" else "ordinary"
        first, second = sorted(plain.values())[:-3:-1]
        for way, shares in by_each_way(app, client, checkpoints[net], net, path).items():
            apart = max(abs(shares[label] - share) for label, share in plain.items())
            other = max(shares, key=shares.get) != max(plain, key=plain.get) and first - second > 2e-3
            yield number, size, way, apart, other


def is_right(size, apart, other):
    return not other and apart <= (0.03 if size == "large JPEG" else 1e-3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="keep the result as differential.json")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from app_server import App
    from gradio_client import Client

    warnings.simplefilter("ignore")
    files, worst, others, wrong = drawn(given.pictures, given.seed), Counter(), Counter(), 0
    with tempfile.TemporaryDirectory(prefix="differential-") as folder:
        app = App(Path(folder) / "home", folder)
        try:
            client = Client(app.url, verbose=False)
            for number, size, way, apart, other in compared(files, app, client, folder):
                worst[size, way], others[size, way] = max(worst[size, way], apart), others[size, way] + other
                if not is_right(size, apart, other):
                    wrong += 1
                    print(f"  {number}, {files[number][0]}: {way} is {apart:.4f} apart", flush=True)
        finally:
            app.kill()
    kinds = len({kind for kind, *_ in files}) - 1
    print(f"{given.pictures} ordinary pictures of {kinds} kinds and {LARGE} large JPEGs, in turn through Small and "
          "Large; against torchvision's transforms and torch:")  # fmt: skip
    for (size, way), apart in worst.items():
        print(f"  {size}, {way}: at most {apart:.1e} apart, another likeliest class {others[size, way]} times")
    print(f"wrong: {wrong}")
    if given.write:
        apart = {f"{size}, {way}": {"apart": float(f"{most:.1e}"), "another likeliest class": others[size, way]}
                 for (size, way), most in worst.items()}  # fmt: skip
        keep(__file__, {"seed": given.seed, "ordinary": given.pictures, "kinds": kinds, "large": LARGE,
                        "most apart": apart, "wrong": wrong})  # fmt: skip
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
