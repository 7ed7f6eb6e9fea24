//! Models of candle-transformers in variants: as they are (`theirs`), with candle-batchnorm's layer (`ours`), with its activation in
//! the same operation (`fused`); each also with its layers in training. `build.rs` makes them of the source of that package and
//! says which lines it changes.

include!(concat!(env!("OUT_DIR"), "/models.rs"));
