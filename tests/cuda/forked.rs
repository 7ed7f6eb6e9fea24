//! A process that was forked after CUDA was used refuses, whatever the threads of its parent hold.
#![cfg(unix)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use batchnorm::op::Problem;
use batchnorm::{Backend, Cuda, Epilogue, Error, Op};

use crate::device::cuda;
use crate::step::{Operation, Step, layer, shape};

/// Seconds after which a child is taken to hang.
const WATCHDOG: u32 = 60;

#[test]
fn a_forked_process_refuses() {
    let Some(device) = cuda() else { return };
    let cuda: &Cuda = &device;
    let mut layer = layer(cuda).unwrap();
    let mut step = Step::new(&layer).unwrap();
    step.run(&mut layer, Operation::Train).unwrap();
    let x = cuda.upload(&[1.0f32; 8]).unwrap();
    let problem = Problem::new(Op::Train, shape(), batchnorm::Dtype::F32, Epilogue::IDENTITY, 1e-5, None).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Locks that the child may not wait for: of plans that are made, of contexts that are looked up.
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                cuda.plan(&problem).unwrap();
                Cuda::on(cuda.stream().clone()).unwrap();
            }
        });
        let mut failed = Vec::new();
        for fork in 0..40u64 {
            thread::sleep(Duration::from_micros(fork * 37 % 500));
            // SAFETY: the child asks, is refused, and ends; it returns to no caller.
            let child = unsafe { libc::fork() };
            assert!(child >= 0, "no process to be had");
            if child == 0 {
                // SAFETY: these functions take numbers.
                unsafe { libc::alarm(WATCHDOG) };
                let is_refused = |result: Result<(), Error>| matches!(result, Err(Error::Forked { .. }));
                let all = Operation::ALL.into_iter().all(|it| is_refused(step.run(&mut layer, it)))
                    && is_refused(Cuda::new(0).map(drop))
                    && is_refused(Cuda::count().map(drop))
                    && is_refused(Cuda::on(cuda.stream().clone()).map(drop))
                    && is_refused(cuda.plan(&problem).map(drop))
                    && is_refused(cuda.workspace(&[problem]).map(drop))
                    && is_refused(cuda.upload(&[1.0f32]).map(drop))
                    && is_refused(cuda.upload(&[0.0f32; 0]).map(drop))
                    && is_refused(cuda.download(&x).map(drop))
                    && is_refused(cuda.duplicate(&x).map(drop))
                    && is_refused(layer.state_dict().map(drop))
                    && is_refused(cuda.synchronize());
                // SAFETY: as above; nothing of the parent's is run on the way.
                unsafe { libc::_exit(i32::from(!all)) };
            }
            let mut status = 0;
            // SAFETY: the status is this function's own.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            if status != 0 {
                failed.push((fork, status));
            }
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(failed.is_empty(), "fork, status (14: it hung, 256: something was not refused): {failed:?}");
    });
    step.run(&mut layer, Operation::Train).unwrap();
}
