//! `flat_map` and `try_flat_map`: one record in, any number out, lazily.
//!
//! Always true: between two calls, `pending` holds the outputs of the last record that have not been sent down. The
//! stage is interrupted between any two of them when there is no room; a barrier makes it finish the record instead.

use crate::connector::BoxError;
use crate::operator::{BindContext, Failure, Flow, Link, Site, Stage, StageControl};
use std::sync::Arc;

/// Turns each record into the records of an iterator.
#[derive(Clone)]
pub struct FlatMap<F> {
    /// The operator's uid.
    pub uid: Arc<str>,
    /// The function.
    pub function: F,
}

/// Turns each record into the records of an iterator, or fails the job.
#[derive(Clone)]
pub struct TryFlatMap<F> {
    /// The operator's uid.
    pub uid: Arc<str>,
    /// The function.
    pub function: F,
}

/// A flat map at one partition, on top of `down`.
pub struct FlatMapStage<F, I, D> {
    site: Site,
    function: F,
    pending: Option<I>,
    down: D,
}

/// A fallible flat map at one partition, on top of `down`.
pub struct TryFlatMapStage<F, I, D>(FlatMapStage<F, I, D>);

impl<F, I, D> FlatMapStage<F, I, D>
where
    I: Iterator,
    D: Stage<I::Item>,
{
    #[inline(always)]
    fn drain(&mut self) -> Result<Flow, Failure> {
        while let Some(pending) = &mut self.pending {
            let Some(record) = self.site.blame(|| pending.next()) else {
                self.pending = None;
                break;
            };
            if self.down.process(record)? == Flow::Blocked {
                return Ok(Flow::Blocked);
            }
        }
        Ok(Flow::Continue)
    }
}

impl<F: Send, I: Iterator + Send, D: Stage<I::Item>> StageControl for FlatMapStage<F, I, D> {
    fn down(&mut self) -> Option<&mut dyn StageControl> {
        Some(&mut self.down)
    }

    fn resume(&mut self) -> Result<Flow, Failure> {
        if self.down.resume()? == Flow::Blocked {
            return Ok(Flow::Blocked);
        }
        self.drain()
    }

    fn finish_record(&mut self) -> Result<(), Failure> {
        self.down.finish_record()?;
        while self.drain()? == Flow::Blocked {
            self.down.finish_record()?;
        }
        Ok(())
    }
}

impl<F: Send, I: Iterator + Send, D: Stage<I::Item>> StageControl for TryFlatMapStage<F, I, D> {
    fn down(&mut self) -> Option<&mut dyn StageControl> {
        self.0.down()
    }
    fn resume(&mut self) -> Result<Flow, Failure> {
        self.0.resume()
    }
    fn finish_record(&mut self) -> Result<(), Failure> {
        self.0.finish_record()
    }
}

impl<T, I, F> Link<T> for FlatMap<F>
where
    T: 'static,
    I: IntoIterator<Item: 'static, IntoIter: Send + 'static>,
    F: FnMut(T) -> I + Clone + Send + 'static,
{
    type Out = I::Item;
    type Bound<D: Stage<I::Item> + 'static> = FlatMapStage<F, I::IntoIter, D>;

    fn bind<D: Stage<I::Item> + 'static>(
        self,
        context: &mut BindContext,
        down: D,
    ) -> Result<Self::Bound<D>, Failure> {
        Ok(FlatMapStage { site: context.site(&self.uid), function: self.function, pending: None, down })
    }
}

impl<T, I, F, D> Stage<T> for FlatMapStage<F, I::IntoIter, D>
where
    I: IntoIterator<IntoIter: Send>,
    F: FnMut(T) -> I + Send,
    D: Stage<I::Item>,
{
    #[inline(always)]
    fn process(&mut self, record: T) -> Result<Flow, Failure> {
        self.pending = Some(self.site.blame(|| (self.function)(record).into_iter()));
        self.drain()
    }
}

impl<T, I, E, F> Link<T> for TryFlatMap<F>
where
    T: 'static,
    I: IntoIterator<Item: 'static, IntoIter: Send + 'static>,
    E: Into<BoxError>,
    F: FnMut(T) -> Result<I, E> + Clone + Send + 'static,
{
    type Out = I::Item;
    type Bound<D: Stage<I::Item> + 'static> = TryFlatMapStage<F, I::IntoIter, D>;

    fn bind<D: Stage<I::Item> + 'static>(
        self,
        context: &mut BindContext,
        down: D,
    ) -> Result<Self::Bound<D>, Failure> {
        let site = context.site(&self.uid);
        Ok(TryFlatMapStage(FlatMapStage { site, function: self.function, pending: None, down }))
    }
}

impl<T, I, E, F, D> Stage<T> for TryFlatMapStage<F, I::IntoIter, D>
where
    I: IntoIterator<IntoIter: Send>,
    E: Into<BoxError>,
    F: FnMut(T) -> Result<I, E> + Send,
    D: Stage<I::Item>,
{
    #[inline(always)]
    fn process(&mut self, record: T) -> Result<Flow, Failure> {
        let stage = &mut self.0;
        match stage.site.blame(|| (stage.function)(record).map(I::into_iter)) {
            Ok(records) => {
                stage.pending = Some(records);
                stage.drain()
            }
            Err(error) => Err(stage.site.user_failure(error.into())),
        }
    }
}
