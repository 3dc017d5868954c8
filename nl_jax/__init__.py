"""Non-local Neural Networks (Wang, Girshick, Gupta, He, CVPR 2018) in JAX and Flax."""
