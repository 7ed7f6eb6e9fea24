//! A layer on the CPU: train by gradient descent, then infer.
//!
//!     cargo run --example 01_layer
//!
//! The network is one batch norm with relu; it learns a gamma and a beta that give the wanted values.

use batchnorm::{Backend, BatchNorm, Cpu, Epilogue, Gradients, Options, Params, Shape};

const RATE: f32 = 0.5;

fn main() -> Result<(), batchnorm::Error> {
    let shape = Shape::nchw(4, 2, 3, 3)?; // 4 images of 2 channels, 3x3 pixels each
    let m = shape.m() as f32;
    let x: Vec<f32> = (0..shape.len()).map(|i| (i * 37 % 101) as f32 / 10.0).collect();

    let mut layer = BatchNorm::new(Cpu, shape.c(), Options::new())?;
    let mut saved = layer.saved(shape, Epilogue::RELU)?; // what the backward pass needs of the forward pass

    // The wanted values: those of a layer with other parameters.
    let mut wanted = vec![0.0; x.len()];
    let mut teacher = layer.try_clone()?;
    let Params { gamma, beta } = teacher.params_mut();
    gamma.into_iter().for_each(|gamma| gamma.copy_from_slice(&[2.0, 0.5]));
    beta.into_iter().for_each(|beta| beta.copy_from_slice(&[1.0, 0.75]));
    teacher.train(shape, &x, Epilogue::RELU, &mut wanted, &mut saved)?;

    let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    let (mut dgamma, mut dbeta) = (vec![0.0; shape.c()], vec![0.0; shape.c()]);
    for step in 0..=60 {
        layer.train(shape, &x, Epilogue::RELU, &mut y, &mut saved)?;
        let error: Vec<f32> = y.iter().zip(&wanted).map(|(y, wanted)| y - wanted).collect();
        if step % 20 == 0 {
            println!("step {step:2}: loss {:.6}", error.iter().map(|e| e * e).sum::<f32>() / (2.0 * m));
        }
        let dy: Vec<f32> = error.iter().map(|error| error / m).collect();
        layer.backward(
            shape,
            &x,
            &dy,
            Epilogue::RELU, // that of the forward pass
            &saved,
            Gradients { dx: Some(&mut dx), dgamma: Some(&mut dgamma), dbeta: Some(&mut dbeta) },
        )?;
        let Params { gamma, beta } = layer.params_mut();
        for (values, gradient) in [(gamma, &dgamma), (beta, &dbeta)] {
            values.map_or(Ok(()), |values| Cpu.axpy(-RATE, gradient, values))?;
        }
    }
    println!("gamma {:.3?}, beta {:.3?}", layer.gamma(), layer.beta());

    // Inference takes the running statistics, which followed the batches.
    layer.infer(shape, &x, Epilogue::RELU, &mut y)?;
    println!("inference: y begins with {:.3?}", &y[..4]);
    Ok(())
}
