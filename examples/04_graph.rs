//! A training step captured into a CUDA graph, and replayed: one call of the driver a step.
//!
//!     cargo run --release --features cuda --example 04_graph
//!
//! A graph keeps the addresses of its buffers: layer, statistics and data must outlive it. `reserve` comes before the capture,
//! which allocates nothing then.

use batchnorm::cudarc::driver::CudaContext;
use batchnorm::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use batchnorm::{Backend, BatchNorm, Cuda, Epilogue, Error, Gradients, Options, Params, Shape};

const REPLAYS: usize = 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Err(error @ (Error::NoDriver { .. } | Error::NoDevice { .. })) = Cuda::new(0) {
        println!("skipped: {error}");
        return Ok(());
    }
    // A stream that can be captured: a non-blocking one, of a context that tracks no events between streams.
    let context = CudaContext::new(0)?;
    // SAFETY: nothing was allocated in this context yet, and one stream alone is used.
    unsafe { context.disable_event_tracking() };
    let cuda = Cuda::on(context.new_stream()?)?;

    let shape = Shape::nchw(4, 8, 7, 7)?;
    let mut layer = BatchNorm::new(cuda.clone(), shape.c(), Options::new())?;
    layer.reserve::<f32>(shape, Epilogue::IDENTITY)?;
    let mut saved = layer.saved(shape, Epilogue::IDENTITY)?;
    let x = cuda.upload(&(0..shape.len()).map(|i| (i * 37 % 101) as f32).collect::<Vec<_>>())?;
    let dy = cuda.upload(&vec![0.01f32; shape.len()])?;
    let (mut y, mut dx) = (cuda.zeros::<f32>(shape.len())?, cuda.zeros::<f32>(shape.len())?);
    let (mut dgamma, mut dbeta) = (cuda.zeros::<f32>(shape.c())?, cuda.zeros::<f32>(shape.c())?);
    let mut step = || {
        layer.train(shape, &x, Epilogue::IDENTITY, &mut y, &mut saved)?;
        let gradients =
            Gradients::<Cuda, f32> { dx: Some(&mut dx), dgamma: Some(&mut dgamma), dbeta: Some(&mut dbeta) };
        layer.backward(shape, &x, &dy, Epilogue::IDENTITY, &saved, gradients)?;
        let Params { gamma, beta } = layer.params_mut();
        gamma.map_or(Ok(()), |gamma| cuda.axpy(-0.1, &dgamma, gamma))?;
        beta.map_or(Ok(()), |beta| cuda.axpy(-0.1, &dbeta, beta))
    };

    let stream = cuda.stream();
    match stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) {
        Ok(()) => {
            let captured = step();
            let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
            let graph = stream.end_capture(flags); // whatever came of the step: the stream is the caller's again
            captured?;
            let graph = graph?.ok_or("an empty graph")?;
            (0..REPLAYS).try_for_each(|_| graph.launch())?;
            cuda.synchronize()?; // before the graph is dropped
            println!("replayed {REPLAYS} times");
        }
        Err(error) => {
            println!("no graphs on this device ({error:?}): the steps run one by one");
            (0..REPLAYS).try_for_each(|_| step())?;
        }
    }
    let state = layer.state_dict()?;
    println!("beta {:?}", state.beta.map(|beta| beta[0]));
    println!("batches counted: {:?}", state.running.map(|running| running.num_batches_tracked));
    Ok(())
}
