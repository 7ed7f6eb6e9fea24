//! A batch norm folded into the dense layer before it, for inference: one layer less, and the same results.
//!
//!     cargo run --example 06_fold
//!
//! A convolution's weights fold alike: `StateDict::fold_into` has the shapes.

use batchnorm::{BatchNorm, Cpu, Epilogue, Layout, Options, Shape};

const N: usize = 5;
const IN: usize = 4;
const OUT: usize = 3;

/// `y[n][out] = sum over in of x[n][in] * weight[out][in] + bias[out]`
fn dense(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let y = |i: usize| {
        let (x, weight) = (&x[i / OUT * IN..][..IN], &weight[i % OUT * IN..][..IN]);
        bias[i % OUT] + x.iter().zip(weight).map(|(x, weight)| x * weight).sum::<f32>()
    };
    (0..N * OUT).map(y).collect()
}

fn main() -> Result<(), batchnorm::Error> {
    let values = |len: usize, seed: usize| (0..len).map(|i| ((i * 7 + seed) % 11) as f32 / 5.0 - 1.0).collect();
    let (x, mut weight, mut bias): (Vec<f32>, Vec<f32>, Vec<f32>) =
        (values(N * IN, 1), values(OUT * IN, 2), values(OUT, 3));

    // A trained pair: a few batches have moved the running statistics.
    let shape = Shape::nc(N, OUT)?;
    let mut layer = BatchNorm::new(Cpu, OUT, Options::new())?;
    let mut saved = layer.saved(shape, Epilogue::IDENTITY)?;
    let (hidden, mut y) = (dense(&x, &weight, &bias), vec![0.0; N * OUT]);
    for _ in 0..10 {
        layer.train(shape, &hidden, Epilogue::IDENTITY, &mut y, &mut saved)?;
    }
    layer.infer(shape, &hidden, Epilogue::IDENTITY, &mut y)?;

    // Weights of [out, in], as PyTorch has them.
    let of_weight = Shape::new(&[1, OUT, IN], Layout::ChannelsFirst)?;
    layer.state_dict()?.fold_into(layer.options().eps, of_weight, &mut weight, &mut bias)?;
    let folded = dense(&x, &weight, &bias);

    let apart = y.iter().zip(&folded).map(|(y, folded)| (y - folded).abs()).fold(0.0, f32::max);
    println!("dense and batch norm: {:.4?}", &y[..OUT]);
    println!("folded:               {:.4?}", &folded[..OUT]);
    println!("largest difference:   {apart:.1e}");
    assert!(apart < 1e-5);
    Ok(())
}
