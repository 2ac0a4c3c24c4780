//! `map`, `filter` and `try_map`: one record in, at most one out, no state.

use crate::connector::BoxError;
use crate::operator::{BindContext, Failure, Flow, Link, Site, Stage, StageControl};
use std::sync::Arc;

/// Turns each record into another.
#[derive(Clone)]
pub struct Map<F> {
    /// The operator's uid.
    pub uid: Arc<str>,
    /// The function.
    pub function: F,
}

/// Keeps the records for which a predicate holds.
#[derive(Clone)]
pub struct Filter<F> {
    /// The operator's uid.
    pub uid: Arc<str>,
    /// The predicate.
    pub predicate: F,
}

/// Turns each record into another, or fails the job.
#[derive(Clone)]
pub struct TryMap<F> {
    /// The operator's uid.
    pub uid: Arc<str>,
    /// The function.
    pub function: F,
}

/// A stateless operator at one partition, on top of `down`.
pub struct Stateless<F, D> {
    site: Site,
    function: F,
    down: D,
}

impl<F: Send, D: StageControl> StageControl for Stateless<F, D> {
    fn down(&mut self) -> Option<&mut dyn StageControl> {
        Some(&mut self.down)
    }
}

/// A [`Map`] at one partition.
pub struct MapStage<F, D>(Stateless<F, D>);

/// A [`Filter`] at one partition.
pub struct FilterStage<F, D>(Stateless<F, D>);

/// A [`TryMap`] at one partition.
pub struct TryMapStage<F, D>(Stateless<F, D>);

macro_rules! control_of_inner {
    ($($stage:ident),*) => {$(
        impl<F: Send, D: StageControl> StageControl for $stage<F, D> {
            fn down(&mut self) -> Option<&mut dyn StageControl> {
                self.0.down()
            }
        }
    )*};
}
control_of_inner!(MapStage, FilterStage, TryMapStage);

impl<T: 'static, U: 'static, F: FnMut(T) -> U + Clone + Send + 'static> Link<T> for Map<F> {
    type Out = U;
    type Bound<D: Stage<U> + 'static> = MapStage<F, D>;

    fn bind<D: Stage<U> + 'static>(
        self,
        context: &mut BindContext,
        down: D,
    ) -> Result<MapStage<F, D>, Failure> {
        Ok(MapStage(Stateless { site: context.site(&self.uid), function: self.function, down }))
    }
}

impl<T, U, F: FnMut(T) -> U + Send, D: Stage<U>> Stage<T> for MapStage<F, D> {
    #[inline(always)]
    fn process(&mut self, record: T) -> Result<Flow, Failure> {
        let stage = &mut self.0;
        let mapped = stage.site.blame(|| (stage.function)(record));
        stage.down.process(mapped)
    }
}

impl<T: 'static, F: FnMut(&T) -> bool + Clone + Send + 'static> Link<T> for Filter<F> {
    type Out = T;
    type Bound<D: Stage<T> + 'static> = FilterStage<F, D>;

    fn bind<D: Stage<T> + 'static>(
        self,
        context: &mut BindContext,
        down: D,
    ) -> Result<FilterStage<F, D>, Failure> {
        Ok(FilterStage(Stateless { site: context.site(&self.uid), function: self.predicate, down }))
    }
}

impl<T, F: FnMut(&T) -> bool + Send, D: Stage<T>> Stage<T> for FilterStage<F, D> {
    #[inline(always)]
    fn process(&mut self, record: T) -> Result<Flow, Failure> {
        let stage = &mut self.0;
        if stage.site.blame(|| (stage.function)(&record)) {
            stage.down.process(record)
        } else {
            Ok(Flow::Continue)
        }
    }
}

impl<T, U, E, F> Link<T> for TryMap<F>
where
    T: 'static,
    U: 'static,
    E: Into<BoxError>,
    F: FnMut(T) -> Result<U, E> + Clone + Send + 'static,
{
    type Out = U;
    type Bound<D: Stage<U> + 'static> = TryMapStage<F, D>;

    fn bind<D: Stage<U> + 'static>(
        self,
        context: &mut BindContext,
        down: D,
    ) -> Result<TryMapStage<F, D>, Failure> {
        Ok(TryMapStage(Stateless { site: context.site(&self.uid), function: self.function, down }))
    }
}

impl<T, U, E: Into<BoxError>, F: FnMut(T) -> Result<U, E> + Send, D: Stage<U>> Stage<T>
    for TryMapStage<F, D>
{
    #[inline(always)]
    fn process(&mut self, record: T) -> Result<Flow, Failure> {
        let stage = &mut self.0;
        match stage.site.blame(|| (stage.function)(record)) {
            Ok(mapped) => stage.down.process(mapped),
            Err(error) => Err(stage.site.user_failure(error.into())),
        }
    }
}
