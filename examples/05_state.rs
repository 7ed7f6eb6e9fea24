//! Parameters and statistics in safetensors files: of one layer, and of all layers of a network, under PyTorch's names.
//!
//!     cargo run --example 05_state
//!
//! A file that PyTorch wrote, `safetensors.torch.save_file(model.state_dict(), path)`, is read in the same way.

use batchnorm::tensors::{TensorFile, Tensors, read};
use batchnorm::{BatchNorm, Cpu, Epilogue, Options, Params, Shape};

fn main() -> Result<(), batchnorm::Error> {
    let path = std::env::temp_dir().join(format!("batchnorm-example-{}.safetensors", std::process::id()));
    let mut layers = [BatchNorm::new(Cpu, 3, Options::new())?, BatchNorm::new(Cpu, 5, Options::new())?];
    for layer in &mut layers {
        // A batch moves the running statistics, so that there is something to keep.
        let shape = Shape::nc(4, layer.channels())?;
        let x: Vec<f32> = (0..shape.len()).map(|i| i as f32).collect();
        let (mut y, mut saved) = (vec![0.0; x.len()], layer.saved(shape, Epilogue::IDENTITY)?);
        layer.train(shape, &x, Epilogue::IDENTITY, &mut y, &mut saved)?;
    }

    // One layer in a file, whole or not at all.
    layers[0].save(&path, "")?;
    let mut loaded = BatchNorm::new(Cpu, 3, Options::new())?;
    loaded.load(&path, "")?;
    println!("one layer: the same after loading: {}", loaded.state_dict()? == layers[0].state_dict()?);

    // A network in one file: the layers' names are prefixes.
    let mut file = TensorFile::default();
    for (layer, prefix) in layers.iter().zip(["bn1.", "bn2."]) {
        layer.state_dict()?.to_tensors(&mut file, prefix)?;
    }
    file.write(&path)?;
    let bytes = read(&path)?;
    println!("a network: {}", Tensors::parse(&bytes)?.names().join(", "));

    // Another network's layer out of that file.
    let mut other = BatchNorm::new(Cpu, 5, Options::new())?;
    other.load(&path, "bn2.")?;
    println!("bn2: the same after loading: {}", other.state_dict()? == layers[1].state_dict()?);

    // A file that does not fit is refused, and changes nothing.
    let Params { gamma, .. } = other.params_mut();
    gamma.into_iter().for_each(|gamma| gamma.fill(7.0));
    if let Err(error) = other.load(&path, "bn1.") {
        println!("bn1 into a layer of 5 channels: {error}; gamma is still {:?}", other.gamma());
    }
    drop(std::fs::remove_file(&path));
    Ok(())
}
