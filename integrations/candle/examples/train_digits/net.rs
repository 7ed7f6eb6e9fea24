//! The networks, each with one of three norms.

use std::path::Path;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::{Conv2d, Conv2dConfig, Linear, Module, ModuleT, VarBuilder, VarMap};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const CLASSES: usize = 10;

/// The batch norm that follows a layer.
#[derive(Clone, Copy)]
pub(crate) enum Norm {
    Ours,
    Candle,
    None,
}

impl Norm {
    pub(crate) const ALL: [Self; 3] = [Self::Ours, Self::Candle, Self::None];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "candle_batchnorm",
            Self::Candle => "candle_nn",
            Self::None => "without batch norm",
        }
    }

    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::Ours => "candle_batchnorm",
            Self::Candle => "candle_nn",
            Self::None => "none",
        }
    }

    fn layer(self, c: usize, vb: VarBuilder<'_>) -> Result<NormRelu> {
        Ok(match self {
            Self::Ours => NormRelu::Ours(candle_batchnorm::batch_norm(c, 1e-5, vb)?),
            Self::Candle => NormRelu::Candle(candle_nn::batch_norm(c, 1e-5, vb)?),
            Self::None => NormRelu::None,
        })
    }
}

/// A norm with a relu behind it.
enum NormRelu {
    Ours(candle_batchnorm::BatchNorm),
    Candle(candle_nn::BatchNorm),
    None,
}

impl ModuleT for NormRelu {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        match self {
            Self::Ours(norm) => norm.relu(x, train),
            Self::Candle(norm) => norm.forward_t(x, train)?.relu(),
            Self::None => x.relu(),
        }
    }
}

/// The network that is trained: images to logits.
pub(crate) trait Model: ModuleT {
    fn vars(&self) -> &VarMap;
}

/// Three convolutions, each with a norm and a relu, and a dense layer.
pub(crate) struct Network {
    vars: VarMap,
    blocks: Vec<(Conv2d, NormRelu)>,
    head: Linear,
}

impl Network {
    /// The same weights for the same seed, whatever the norm.
    pub(crate) fn new(norm: Norm, seed: u64, device: &Device) -> Result<Self> {
        let vars = VarMap::new();
        let vb = VarBuilder::from_varmap(&vars, DType::F32, device);
        let config = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
        let block = |i: usize, from: usize, to: usize| -> Result<_> {
            let conv = candle_nn::conv2d(from, to, 3, config, vb.pp(format!("conv{i}")))?;
            Ok((conv, norm.layer(to, vb.pp(format!("norm{i}")))?))
        };
        let blocks = vec![block(1, 1, 8)?, block(2, 8, 16)?, block(3, 16, 32)?];
        let head = candle_nn::linear(32 * 2 * 2, CLASSES, vb.pp("head"))?;
        seeded(&vars, seed)?;
        Ok(Self { vars, blocks, head })
    }

    pub(crate) fn save(&self, file: &Path) -> Result<()> {
        self.vars.save(file)
    }

    pub(crate) fn load(&mut self, file: &Path) -> Result<()> {
        self.vars.load(file)
    }
}

impl ModuleT for Network {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mut x = x.clone();
        for (i, (conv, norm)) in self.blocks.iter().enumerate() {
            x = norm.forward_t(&conv.forward(&x)?, train)?;
            if i > 0 {
                x = x.max_pool2d(2)?;
            }
        }
        self.head.forward(&x.flatten_from(1)?)
    }
}

impl Model for Network {
    fn vars(&self) -> &VarMap {
        &self.vars
    }
}

/// A dense layer with a norm and a relu, and another.
pub(crate) struct Dense {
    vars: VarMap,
    hidden: Linear,
    norm: NormRelu,
    head: Linear,
}

impl Dense {
    pub(crate) fn new(norm: Norm, seed: u64, device: &Device) -> Result<Self> {
        let vars = VarMap::new();
        let vb = VarBuilder::from_varmap(&vars, DType::F32, device);
        let hidden = candle_nn::linear(64, 32, vb.pp("hidden"))?;
        let norm = norm.layer(32, vb.pp("norm"))?;
        let head = candle_nn::linear(32, CLASSES, vb.pp("head"))?;
        seeded(&vars, seed)?;
        Ok(Self { vars, hidden, norm, head })
    }
}

impl ModuleT for Dense {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.head.forward(&self.norm.forward_t(&self.hidden.forward(&x.flatten_from(1)?)?, train)?)
    }
}

impl Model for Dense {
    fn vars(&self) -> &VarMap {
        &self.vars
    }
}

/// Draws the weights of convolutions and dense layers anew: candle's generator on the CPU takes no seed.
fn seeded(vars: &VarMap, seed: u64) -> Result<()> {
    let data = vars.data().lock().map_err(candle_core::Error::msg)?;
    let mut named: Vec<(&String, &Var)> = data.iter().filter(|(name, _)| !name.starts_with("norm")).collect();
    named.sort_by_key(|(name, _)| *name);
    let mut rng = StdRng::seed_from_u64(seed);
    for (name, var) in named {
        // Weights are drawn as PyTorch does: uniformly, by the inputs of an output. A bias begins at 0.
        let inputs: usize = var.dims()[1..].iter().product();
        let bound = if name.ends_with("weight") { (inputs as f32).sqrt().recip() } else { 0.0 };
        let values: Vec<f32> = (0..var.elem_count()).map(|_| rng.random_range(-1.0f32..=1.0) * bound).collect();
        var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
    }
    Ok(())
}

/// Number of rows whose largest logit is that of their label.
pub(crate) fn hits(logits: &Tensor, labels: &Tensor) -> Result<u32> {
    logits.argmax(D::Minus1)?.eq(labels)?.to_dtype(DType::U32)?.sum_all()?.to_scalar()
}
