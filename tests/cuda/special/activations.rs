//! Activations at single values of `v`: far out, and where their derivatives jump, which the table's scales are too coarse for.

use batchnorm::op::{Backward, Infer, Statistics};
use batchnorm::{
    Backend, Compute, Cuda, Dtype, Element, Epilogue, Error, Gradients, Result, Shape, with_device_element,
};

use super::{NO_F64, under_every_strategy};
use crate::device::cuda;

/// The unit of roundoff of f32.
const ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;

/// `false` where a strategy has no room.
fn has_room(ran: Result<()>) -> bool {
    match ran {
        Err(Error::NoStrategy { .. } | Error::Strategy { .. }) => false,
        ran => {
            ran.unwrap();
            true
        }
    }
}

/// The derivative at each of these values. A backward pass over x of 0, one value a channel: `v` is `beta`, and `dbeta` the gradient.
fn derivatives<T: Element<Param = f32>>(cuda: &Cuda, epilogue: Epilogue<()>, v: &[f32]) -> Option<Vec<f32>>
where
    Cuda: Compute<T>,
{
    let upload = |value: f32| cuda.upload(&vec![value; v.len()]).unwrap();
    let (x, dy) = (cuda.zeros::<T>(v.len()).unwrap(), cuda.upload(&vec![T::from_f64(1.0); v.len()]).unwrap());
    let (mean, inv_std, gamma, beta) = (upload(0.0), upload(1.0), upload(1.0), cuda.upload(v).unwrap());
    let (mut dx, mut dbeta) = (cuda.zeros::<T>(v.len()).unwrap(), upload(9.0));
    let backward = Backward::<Cuda, T> {
        shape: Shape::nc(1, v.len()).unwrap(),
        x: &x,
        dy: &dy,
        epilogue: epilogue.map(|()| unreachable!("a residual")),
        gamma: Some(&gamma),
        beta: Some(&beta),
        statistics: Statistics::Batch { mean: &mean, inv_std: &inv_std },
        relu_mask: None,
        gradients: Gradients { dx: Some(&mut dx), dgamma: None, dbeta: Some(&mut dbeta) },
    };
    has_room(cuda.run(backward)).then(|| cuda.download(&dbeta).unwrap())
}

/// `activation(v)` of each of these values, by an inference over x of 0.
fn values(cuda: &Cuda, epilogue: Epilogue<()>, v: &[f32]) -> Vec<f32> {
    let upload = |value: f32| cuda.upload(&vec![value; v.len()]).unwrap();
    let (x, beta, running_mean, running_var, mut y) =
        (upload(0.0), cuda.upload(v).unwrap(), upload(0.0), upload(1.0), upload(9.0));
    let infer = Infer::<Cuda, f32> {
        shape: Shape::nc(1, v.len()).unwrap(),
        eps: 0.0,
        x: &x,
        epilogue: epilogue.map(|()| unreachable!("a residual")),
        gamma: None,
        beta: Some(&beta),
        running_mean: &running_mean,
        running_var: &running_var,
        y: &mut y,
        relu_mask: None,
    };
    cuda.run(infer).unwrap();
    cuda.download(&y).unwrap()
}

/// Calls `check` with each of a dtype's values, its derivative there, the dtype and a name, under every strategy.
fn check_derivatives(
    cuda: &Cuda,
    epilogue: Epilogue<()>,
    values_of: impl Fn(Dtype) -> Vec<f32>,
    check: impl Fn(f32, f32, Dtype, &str),
) {
    under_every_strategy(cuda, |cuda, strategy| {
        for &dtype in Dtype::ON_CUDA {
            let v = values_of(dtype);
            let found =
                with_device_element!(dtype, T => derivatives::<T>(cuda, epilogue, &v), f64 => unreachable!("{NO_F64}"));
            assert!(strategy != "auto" || found.is_some());
            for (v, found) in v.into_iter().zip(found.into_iter().flatten()) {
                check(v, found, dtype, &format!("{strategy}, {dtype}"));
            }
        }
    });
}

#[test]
fn relu6_lets_a_gradient_pass_by_the_y_that_is_stored() {
    let Some(cuda) = cuda() else { return };
    let values_of = |dtype: Dtype| {
        let (step, tiny) = (8.0 * dtype.unit_roundoff(), dtype.min_subnormal());
        let near_6 = [-1.01, -0.99, -0.51, -0.5, -0.49, -0.01, 0.0, 0.49, 1.0].map(|steps| 6.0 + steps * step);
        let near_0 = [-0.5, 0.0, 0.49, 0.5, 0.51, 0.99, 1.0].map(|steps| steps * tiny);
        near_6.into_iter().chain(near_0).chain([3.0, f64::NAN]).map(|v| v as f32).collect()
    };
    check_derivatives(&cuda, Epilogue::RELU6, values_of, |v, found, dtype, of| {
        let y = with_device_element!(dtype, T => T::from_f64(f64::from(v)).to_f64(), f64 => unreachable!("{NO_F64}"));
        let want = if y <= 0.0 || y >= 6.0 { 0.0 } else { 1.0 };
        assert_eq!(found, want, "{of}: v {v:e}, y {y:e}");
    });
}

/// Bounds: the largest errors of the kernels' formulas over all f32, and some room.
#[test]
fn silu_is_right_far_out() {
    let Some(cuda) = cuda() else { return };
    let far = [-3e38, -120.0, -88.0, -87.000_01, -87.0, -80.0, -60.3, -40.0, -20.0, -15.1, -14.0, -10.0, -5.0, -2.0];
    let near = [-1.278_464_5, -0.5, -1e-3, -1e-30, 0.0, 1e-30, 1e-3, 0.5, 2.0, 2.39, 5.0, 10.0, 16.9, 17.0, 87.1, 3e38];
    let v = [&far[..], &near].concat();
    let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
    for (&v, y) in v.iter().zip(values(&cuda, Epilogue::SILU, &v)) {
        let (v, y) = (f64::from(v), f64::from(y));
        let want = if v < -87.0 { -0.0 } else { v * sigmoid(v) };
        assert!((y - want).abs() <= 5.0 * ROUNDOFF * want.abs(), "silu({v}): {y:e}, expected {want:e}");
        assert!(v < 17.0 || y == v, "silu({v}): {y}");
        assert_eq!(y.is_sign_negative(), v.is_sign_negative(), "silu({v}): {y}");
    }
    check_derivatives(
        &cuda,
        Epilogue::SILU,
        |_| v.clone(),
        |v, found, _, of| {
            let (v, found) = (f64::from(v), f64::from(found));
            let want = if v < -87.0 { 0.0 } else { sigmoid(v) * (1.0 + v * sigmoid(-v)) };
            let allowed = if v > -2.0 { 5.0 * ROUNDOFF } else { 8.0 * ROUNDOFF * want.abs() };
            assert!((found - want).abs() <= allowed, "{of}: silu'({v}): {found:e}, expected {want:e}");
        },
    );
}

#[test]
fn hardswish_jumps_at_3_on_either_side() {
    let Some(cuda) = cuda() else { return };
    let jumps = [-3.0f32, 3.0].into_iter().flat_map(|jump| [jump.next_down(), jump, jump.next_up()]);
    let v: Vec<f32> = jumps.chain([-3e38, -7.0, -1.5, -1e-30, 0.0, 1e-30, 1.5, 7.0, 3e38]).collect();
    for (&v, y) in v.iter().zip(values(&cuda, Epilogue::HARDSWISH, &v)) {
        let (v, y) = (f64::from(v), f64::from(y));
        let want = v * ((v + 3.0).clamp(0.0, 6.0) / 6.0);
        assert!((y - want).abs() <= 5.0 * ROUNDOFF * want.abs(), "hardswish({v}): {y:e}, expected {want:e}");
        assert!(v < 3.0 || y == v, "hardswish({v}): {y}");
    }
    check_derivatives(
        &cuda,
        Epilogue::HARDSWISH,
        |_| v.clone(),
        |v, found, _, of| {
            let want = match v {
                ..=-3.0 => 0.0,
                3.0.. => 1.0,
                v => (2.0 * f64::from(v) + 3.0) / 6.0,
            };
            assert!(
                (f64::from(found) - want).abs() <= 2.0 * ROUNDOFF,
                "{of}: hardswish'({v}): {found}, expected {want}"
            );
        },
    );
}
