export { boundedConcurrency } from './lib/concurrency.ts';
