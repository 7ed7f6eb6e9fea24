//! A whole training step on a GPU, the update of gamma and beta included: forward, backward, gradient descent.
//!
//!     cargo run --release --features cuda --example 02_cuda
//!
//! Nothing is read back between the steps. The loss is `mean(w * y)` with fixed weights `w`, so that its gradient is uploaded
//! once.

use batchnorm::{Backend, BatchNorm, Cuda, Epilogue, Error, Gradients, Options, Params, Result, Shape};

const STEPS: usize = 20;
const RATE: f32 = 0.02;

fn main() -> Result<()> {
    let cuda = match Cuda::new(0) {
        Err(error @ (Error::NoDriver { .. } | Error::NoDevice { .. })) => {
            println!("skipped: {error}");
            return Ok(());
        }
        found => found?,
    };
    println!("on {}", cuda.name()?);

    let shape = Shape::nchw(8, 16, 14, 14)?;
    let mut layer = BatchNorm::new(cuda.clone(), shape.c(), Options::new())?;
    layer.reserve::<f32>(shape, Epilogue::RELU)?; // the only scratch memory: the steps below allocate nothing
    let mut saved = layer.saved(shape, Epilogue::RELU)?;

    let x: Vec<f32> = (0..shape.len()).map(|i| (i * 37 % 101) as f32 / 16.0 - 3.0).collect();
    let w: Vec<f32> = (0..shape.len()).map(|i| (i * 11 % 23) as f32 / 8.0 - 1.0).collect();
    let dy: Vec<f32> = w.iter().map(|w| w / shape.m() as f32).collect();
    let (x, dy) = (cuda.upload(&x)?, cuda.upload(&dy)?);
    let (mut y, mut dx) = (cuda.zeros::<f32>(shape.len())?, cuda.zeros::<f32>(shape.len())?);
    let (mut dgamma, mut dbeta) = (cuda.zeros::<f32>(shape.c())?, cuda.zeros::<f32>(shape.c())?);

    let mut losses = Vec::new();
    for step in 0..=STEPS {
        layer.train(shape, &x, Epilogue::RELU, &mut y, &mut saved)?;
        if step % STEPS == 0 {
            let y = cuda.download(&y)?; // waits for the device, as nothing else here does
            losses.push(y.iter().zip(&w).map(|(y, w)| y * w).sum::<f32>() / shape.m() as f32);
        }
        layer.backward(
            shape,
            &x,
            &dy,
            Epilogue::RELU,
            &saved,
            Gradients { dx: Some(&mut dx), dgamma: Some(&mut dgamma), dbeta: Some(&mut dbeta) },
        )?;
        let Params { gamma, beta } = layer.params_mut();
        for (values, gradient) in [(gamma, &dgamma), (beta, &dbeta)] {
            values.map_or(Ok(()), |values| cuda.axpy(-RATE, gradient, values))?;
        }
    }
    println!("loss {:.4} at first, {:.4} after {STEPS} steps", losses[0], losses[1]);
    println!("batches counted: {:?}", layer.state_dict()?.running.map(|running| running.num_batches_tracked));
    Ok(())
}
