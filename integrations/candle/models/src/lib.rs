//! Models of candle-transformers, in four variants each: as they are (`theirs`), with candle-batchnorm's layer (`ours`), and both
//! with their layers in training. `build.rs` makes them of the source of that package and says which lines it changes.

include!(concat!(env!("OUT_DIR"), "/models.rs"));
