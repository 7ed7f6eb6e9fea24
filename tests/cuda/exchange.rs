//! The exchanges of a grid: their number goes on from launch to launch, whatever the geometry, until it begins again.

use batchnorm::op::{Moments, Problem};
use batchnorm::plan::Plan;
use batchnorm::{Backend, Compute, Cpu, Cuda, CudaWorkspace, Dtype, Epilogue, Op, Shape, Strategy};
use cudarc::driver::{CudaSlice, DevicePtr};

use crate::device::{cuda as device, has};
use crate::step::values;

/// The number from which on a launch begins anew (kernels/common/team.cuh).
const LAST: u64 = 1 << 30;
/// The bit that every tag has.
const TAG_BIT: u32 = 1 << 31;

/// Moments by a grid, in scratch memory whose content is at hand.
struct Grid {
    cuda: Cuda,
    scratch: CudaSlice<u8>,
    workspace: CudaWorkspace,
}

impl Grid {
    /// Scratch memory for these shapes, after so many exchanges. All partials have the tag of the first exchange of all.
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

    /// Checks the moments of a shape against those of the CPU. Returns the number of exchanges behind them.
    fn check(&mut self, shape: Shape) -> u64 {
        let Self { cuda, workspace, .. } = self;
        let x = values(shape, 3);
        let (mut mean, mut var) = (vec![0.0f32; shape.c()], vec![0.0f32; shape.c()]);
        let (on_device, mut got_mean, mut got_var) =
            (cuda.upload(&x).unwrap(), cuda.upload(&mean).unwrap(), cuda.upload(&var).unwrap());
        let op = Moments::<Cuda, f32> { shape, x: &on_device, mean: &mut got_mean, var: &mut got_var };
        cuda.run_in(workspace, op).unwrap();
        Cpu.run(Moments::<Cpu, f32> { shape, x: &x, mean: &mut mean, var: &mut var }).unwrap();
        for (got, want) in [(&got_mean, mean), (&got_var, var)] {
            for (c, (got, want)) in cuda.download(got).unwrap().iter().zip(&want).enumerate() {
                assert!((got - want).abs() <= 1e-5 * want.abs().max(1.0), "{shape}: channel {c}: {got} for {want}");
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
    Problem::new(Op::Moments, shape, Dtype::F32, Epilogue::IDENTITY, 0.0, None).unwrap()
}

/// Tiles of one channel, of several, and of more channels than the team has CTAs; with the exchanges that a launch may make.
fn shapes(cuda: &Cuda) -> Vec<(Shape, u64)> {
    let shapes = [Shape::nchw(3, 5, 32, 32), Shape::nhwc(9, 16, 16, 8), Shape::nhwc(2, 16, 16, 128), Shape::nc(4096, 24)];
    let with_exchanges = shapes.map(|shape| {
        let plan = cuda.plan(&problem(shape.unwrap())).unwrap();
        assert!(plan.strategy == Strategy::Grid && plan.tiling.splits > 1, "{plan}");
        (shape.unwrap(), u64::from(2 * (plan.tiling.tiles / plan.tiling.teams + 1)))
    });
    let of_one = with_exchanges.iter().filter(|(shape, _)| {
        let tiling = cuda.plan(&problem(*shape)).unwrap().tiling;
        tiling.tile_channels == 1
    });
    assert!((1..4).contains(&of_one.count()));
    with_exchanges.to_vec()
}

fn grid() -> Option<Cuda> {
    let cuda = device()?.with_strategy(Some(Strategy::Grid));
    has(&cuda.limits(), Some(Strategy::Grid)).then(|| cuda.clone())
}

#[test]
fn they_are_counted_over_launches_of_all_geometries() {
    let Some(cuda) = grid() else { return };
    let shapes = shapes(&cuda);
    let mut grid = Grid::new(&cuda, &shapes.iter().map(|&(shape, _)| shape).collect::<Vec<_>>(), 7);
    let mut exchanges = 7;
    for turn in 0..3 {
        for &(shape, of_launch) in &shapes {
            exchanges += of_launch;
            assert_eq!(grid.check(shape), exchanges, "{shape}, turn {turn}");
        }
    }
}

/// The partials of long ago have the tags that come next: none of them may be taken.
#[test]
fn they_begin_again_before_a_tag_comes_twice() {
    let Some(cuda) = grid() else { return };
    for (shape, of_launch) in shapes(&cuda) {
        let mut grid = Grid::new(&cuda, &[shape], LAST - 1);
        assert_eq!(grid.check(shape), LAST - 1 + of_launch, "{shape}");
        assert_eq!(grid.check(shape), 0, "{shape}");
        assert!(grid.content().iter().all(|&byte| byte == 0), "{shape}: something is left");
        assert_eq!(grid.check(shape), of_launch, "{shape}");
    }
}
