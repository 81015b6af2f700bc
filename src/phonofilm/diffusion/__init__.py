"""Flow matching on the strip: x_t = (1 - t) x0 + t noise, t = 1 is pure noise (2210.02747, 2209.03003).

A denoiser, to everything here, is a callable (x_BND, t_BN) → x0_BND: the noisy strip and the noise level of each token
to the predicted clean strip. A sampler integrates dx/dt = (x - x0) / t from t = 1 to t = 0.
"""
