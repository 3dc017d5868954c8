"""Write torchvision's outputs for tests that run without it: python tests/models/detection/make_fixtures.py.

This needs torchvision 0.29.1 with torch 2.14.1. All values are float64.
"""

import conftest as oracle
import numpy as np


def main():
    oracle.FIXTURES.mkdir(exist_ok=True)
    for network in oracle.NETWORKS:
        for name, size in oracle.SIZES.items():
            model = oracle.build(network)
            shapes = [(key, " ".join(map(str, value.shape))) for key, value in model.state_dict().items()]
            outputs = oracle.kept(oracle.evaluate(model, oracle.images(size)), 60)
            losses, gradients = oracle.train(model, oracle.images(size), *oracle.truth(size))
            for which in ("rpn_positive", "rpn_negative"):
                losses[which] = np.argwhere(losses[which])  # image, anchor
            gradients = {f"gradient/{key}": value for key, value in oracle.kept(gradients, 6).items()}
            path = oracle.FIXTURES / f"{network}_{name}.npz"
            np.savez_compressed(path, shapes=np.asarray(shapes), **outputs, **losses, **gradients)
            print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
