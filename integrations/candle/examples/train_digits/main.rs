//! Trains a small convolutional network on handwritten digits with this crate's batch norm, with candle_nn's and
//! without any; then a network that batch norm harms.
//!
//! ```sh
//! cargo run --manifest-path integrations/candle/Cargo.toml --target-dir target/candle --example train_digits
//! ```

mod data;
mod net;
mod plot;
mod training;

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use candle_core::Device;
use clap::{Parser, ValueEnum};

use data::Digits;
use net::{Dense, Network, Norm};
use training::{Budget, Outcome};

#[derive(Parser)]
#[command(about = "Trains on handwritten digits with and without batch norm, and says what it changes")]
struct Args {
    /// Device to compute on
    #[arg(long, value_enum, default_value_t = Where::Cpu)]
    device: Where,
    /// Epochs of each network
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Images of a step
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..=512))]
    batch: u32,
    /// Of the weights and of the order of the images
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The images, as data/README.md describes them
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/digits.safetensors"))]
    data: PathBuf,
    /// The folder for the trained state and the loss curves
    #[arg(long, default_value = "target/train_digits")]
    out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Where {
    Cpu,
    Cuda,
}

/// The first CUDA device. Candle's own way there panics where there is no driver.
fn cuda() -> candle_core::Result<Device> {
    #[cfg(feature = "cuda")]
    batchnorm::Cuda::new(0).map_err(candle_core::Error::wrap)?;
    Device::new_cuda(0)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let device = match args.device {
        Where::Cpu => Device::Cpu,
        Where::Cuda => cuda().map_err(|error| format!("--device cuda: {error}"))?,
    };
    let digits = Digits::load(&args.data, &device)?;
    fs::create_dir_all(&args.out).map_err(|error| format!("{}: {error}", args.out.display()))?;
    println!("{} images to train on, {} held out\n", digits.training.len(), digits.held_out.len());

    let budget = Budget { epochs: args.epochs, batch: args.batch as usize, seed: args.seed };
    println!("A convolutional network, batches of {}, {} epochs:", budget.batch, budget.epochs);
    let mut outcomes = Vec::new();
    for norm in Norm::ALL {
        let network = Network::new(norm, args.seed, &device)?;
        let outcome = training::train(norm.name(), &network, &digits, budget)?;
        let file = args.out.join(format!("{}.safetensors", norm.file()));
        network.save(&file)?;
        // The saved file is all there is: loaded into a new network, it must be as good.
        let mut loaded = Network::new(norm, args.seed + 1, &device)?;
        loaded.load(&file)?;
        let (_, again) = training::evaluate(&loaded, &digits.held_out)?;
        if again != outcome.accuracy {
            return Err(
                format!("{}: accuracy {again} after loading, {} before", file.display(), outcome.accuracy).into()
            );
        }
        outcomes.push(outcome);
    }
    table(&outcomes);
    println!("\n  Saved, loaded and evaluated again: the same accuracies.\n");

    println!("A dense network, batches of 2, one epoch:");
    let budget = Budget { epochs: 1, batch: 2, seed: args.seed };
    let mut harmed = Vec::new();
    for norm in [Norm::Ours, Norm::None] {
        let network = Dense::new(norm, args.seed, &device)?;
        harmed.push(training::train(norm.name(), &network, &digits, budget)?);
    }
    table(&harmed);
    println!(
        "\n  Of two values, the one above their mean becomes 1 and the other -1, however far apart they are: in training the layer\n  \
         behind the batch norm sees signs alone. In evaluation running statistics take over, and it sees values that it was\n  \
         not trained on. Where a channel has few values in a batch, leave batch norm out, or gather larger batches.\n"
    );

    let file = args.out.join("loss.svg");
    fs::write(&file, plot::svg(&outcomes, &harmed)?).map_err(|error| format!("{}: {error}", file.display()))?;
    println!("Loss curves: {}", file.display());
    Ok(())
}

fn table(outcomes: &[Outcome]) {
    println!(
        "\n  {:<20} {:>14} {:>15} {:>18} {:>9}",
        "", "training loss", "held-out loss", "held-out accuracy", "seconds"
    );
    for it in outcomes {
        let last = it.losses.last().map_or(f64::NAN, |(_, loss)| *loss);
        let (accuracy, seconds) = (100.0 * it.accuracy, it.seconds);
        println!("  {:<20} {last:>14.4} {:>15.4} {accuracy:>17.1}% {seconds:>9.1}", it.name, it.held_out_loss);
    }
}
