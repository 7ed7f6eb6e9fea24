//! The exchanges of a grid: their number goes on from launch to launch, whatever the geometry, until it begins again.

use batchnorm::op::{Memory, Problem, Train, Update};
use batchnorm::plan::{Measure, Plan, Tiling};
use batchnorm::{Backend, Compute, Cpu, Cuda, CudaWorkspace, Dtype, Epilogue, Momentum, Op, Shape, Strategy, Tracking};
use cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};

use crate::device::{Device, EMULATED, cuda as device, has};
use crate::step::values;

/// The number from which on a launch begins anew (kernels/common/team.cuh).
const LAST: u64 = 1 << 30;
/// The bit that every tag has.
const TAG_BIT: u32 = 1 << 31;

/// Training forwards by a grid, in scratch memory whose content can be read.
struct Grid {
    cuda: Cuda,
    scratch: CudaSlice<u8>,
    workspace: CudaWorkspace,
}

impl Grid {
    /// Scratch memory for these shapes, after a number of exchanges. All partials have the tag of the first exchange of all.
    fn new(cuda: &Cuda, shapes: &[Shape], exchanges: u64) -> Self {
        let bytes = shapes.iter().map(|&shape| cuda.workspace_bytes(&problem(shape)).unwrap()).max().unwrap();
        let mut content = vec![0u8; bytes];
        content[Plan::COUNTER_BYTES..][..8].copy_from_slice(&(exchanges << 32).to_le_bytes());
        for slot in content[Plan::HEAD_BYTES..].chunks_exact_mut(Plan::PARTIAL_BYTES) {
            slot[12..].copy_from_slice(&TAG_BIT.to_le_bytes());
        }
        let scratch = cuda.stream().clone_htod(&content).unwrap();
        let address = scratch.device_ptr(cuda.stream()).0;
        // SAFETY: all of `scratch`, which lives as long and which nothing else writes. Of zeros it has what launches leave.
        let workspace = unsafe { CudaWorkspace::from_raw(address, bytes, cuda.stream()) };
        Self { cuda: cuda.clone(), scratch, workspace }
    }

    /// Checks a training forward of a shape against that of the CPU. Returns the number of exchanges behind it.
    fn check(&mut self, shape: Shape) -> u64 {
        let Self { cuda, workspace, .. } = self;
        let x = values(shape, 3);
        let zeros = || vec![0.0f32; shape.c()];
        let (mut y, mut of_channels, mut batches) = (vec![0.0f32; shape.len()], [(); 4].map(|()| zeros()), [41i64]);
        let (on_device, mut got_y) = (cuda.upload(&x).unwrap(), cuda.upload(&y).unwrap());
        let mut got_of_channels = of_channels.each_ref().map(|values| cuda.upload(values).unwrap());
        let mut got_batches = cuda.upload(&batches).unwrap();
        let of_device = got_of_channels.each_mut().map(|values| values as &mut dyn DevicePtrMut<f32>);
        let outputs: Outputs<'_, Cuda> = (&mut got_y, of_device, &mut got_batches);
        cuda.run_in(workspace, train::<Cuda>(shape, &on_device, outputs)).unwrap();
        let outputs = (&mut y[..], of_channels.each_mut().map(|values| &mut values[..]), &mut batches[..]);
        Cpu.run(train::<Cpu>(shape, &x, outputs)).unwrap();
        assert_eq!(cuda.download(&got_batches).unwrap(), [42], "{shape}");
        for (which, (got, want)) in
            [&got_y].into_iter().chain(&got_of_channels).zip([&y].into_iter().chain(&of_channels)).enumerate()
        {
            for (i, (got, want)) in cuda.download(got).unwrap().iter().zip(want).enumerate() {
                assert!((got - want).abs() <= 1e-5 * want.abs().max(1.0), "{shape}: {which}, {i}: {got} for {want}");
            }
        }
        let word = self.content()[Plan::COUNTER_BYTES..][..8].try_into().map(u64::from_le_bytes).unwrap();
        assert_eq!(word as u32, 0, "arrivals are left");
        word >> 32
    }

    fn content(&self) -> Vec<u8> {
        self.cuda.stream().clone_dtoh(&self.scratch).unwrap()
    }
}

fn problem(shape: Shape) -> Problem {
    Problem::new(Op::Train, shape, Dtype::F32, Epilogue::IDENTITY, 1e-5, None).unwrap()
}

/// y; saved mean and inv_std, running mean and variance; the number of batches.
type Outputs<'a, M> = (<M as Memory>::Out<'a, f32>, [<M as Memory>::Out<'a, f32>; 4], <M as Memory>::Out<'a, i64>);

/// A training forward whose momentum is cumulative: the last of its tiles to finish counts the batch.
fn train<'a, M: Memory>(shape: Shape, x: M::In<'a, f32>, outputs: Outputs<'a, M>) -> Train<'a, M, f32> {
    let (y, [saved_mean, saved_inv_std, mean, var], num_batches_tracked) = outputs;
    let tracking = Tracking { momentum: Momentum::Cumulative, ..Tracking::default() };
    let running = Some(Update { tracking, mean, var, num_batches_tracked });
    let (eps, epilogue, gamma, beta, relu_mask) = (1e-5, Epilogue::IDENTITY, None, None, None);
    Train { shape, eps, x, epilogue, gamma, beta, y, saved_mean, saved_inv_std, relu_mask, running }
}

/// The device, which stays in use; the backend with the plans; each shape with the exchanges of a launch.
type Planned = (Device, Cuda, Vec<(Shape, u64)>);
/// A shape, and which of its tilings are meant.
type Wanted = (Shape, fn(&Tiling) -> bool);

/// A device that has these plans alone for some shapes: with tiles of one channel, of several, of more channels than the team has CTAs,
/// and of several tiles in turn.
fn planned() -> Option<Planned> {
    let cuda = device()?;
    if !has(&cuda.limits(), Some(Strategy::Grid)) {
        return None;
    }
    let wanted: [Wanted; 4] = [
        (Shape::nchw(6, 2, 64, 64).unwrap(), |t| t.tile_channels == 1),
        (Shape::nhwc(9, 16, 16, 8).unwrap(), |t| (2..=t.splits).contains(&t.tile_channels)),
        (Shape::nhwc(2, 16, 16, 128).unwrap(), |t| t.tile_channels > t.splits),
        // More tiles than CTAs, and each larger than one CTA can hold.
        (Shape::nchw(20, 2 * cuda.limits().sms as usize + 2, 64, 64).unwrap(), |t| t.tiles > t.teams),
    ];
    let mut table = cuda.plan_table(Measure::CountedBytes).unwrap();
    let shapes = wanted.map(|(shape, is_wanted)| {
        let plans = Plan::all(&problem(shape), &cuda.limits());
        let of_grid = plans.iter().filter(|plan| plan.strategy == Strategy::Grid && plan.tiling.splits > 1);
        let plan = of_grid.copied().find(|plan| is_wanted(&plan.tiling));
        let plan = plan.unwrap_or_else(|| panic!("{shape}: none of {plans:?}"));
        table.insert(&problem(shape), plan, Vec::new()).unwrap();
        (shape, u64::from(plan.tiling.exchanges()))
    });
    let tuned = (*cuda).clone().with_plans(table).unwrap();
    Some((cuda, tuned, shapes.to_vec()))
}

#[test]
fn they_are_counted_over_launches_of_all_geometries() {
    let Some((_shared, cuda, shapes)) = planned() else { return };
    let mut grid = Grid::new(&cuda, &shapes.iter().map(|&(shape, _)| shape).collect::<Vec<_>>(), 7);
    let mut exchanges = 7;
    for turn in 0..3 {
        for &(shape, of_launch) in &shapes {
            exchanges += of_launch;
            assert_eq!(grid.check(shape), exchanges, "{shape}, turn {turn}");
        }
    }
}

/// The partials of long ago have the tags that come next: none of them may be taken. CTAs leave such a launch, and count the batch, in
/// any order.
#[test]
fn they_begin_again_before_a_tag_comes_twice() {
    let Some((_shared, cuda, shapes)) = planned() else { return };
    for &(shape, of_launch) in &shapes {
        for seed in 0..if EMULATED { 8 } else { 1 } {
            in_order(seed);
            begin_again(&cuda, shape, of_launch);
        }
    }
}

/// Lets the emulated device's threads run in another order.
fn in_order(seed: u64) {
    #[cfg(feature = "emulate")]
    cuda_emulator::set_seed(seed);
    #[cfg(not(feature = "emulate"))]
    let _ = seed;
}

fn begin_again(cuda: &Cuda, shape: Shape, of_launch: u64) {
    let mut grid = Grid::new(cuda, &[shape], LAST - 1);
    assert_eq!(grid.check(shape), LAST - 1 + of_launch, "{shape}");
    assert_eq!(grid.check(shape), 0, "{shape}");
    assert!(grid.content().iter().all(|&byte| byte == 0), "{shape}: something is left");
    assert_eq!(grid.check(shape), of_launch, "{shape}");
}

/// The launches of that, for who executes them by other means: small ones.
pub(crate) fn launch() {
    let Some((_shared, cuda, shapes)) = planned() else { return };
    let small = shapes.iter().filter(|(shape, _)| shape.len() <= 1 << 16);
    small.for_each(|&(shape, of_launch)| begin_again(&cuda, shape, of_launch));
}
