import { listMetrics } from '../../packages/runtime/src/metrics.ts';
import { GENERATED } from '../../packages/runtime/src/reference.ts';

/** All metrics, as Markdown. */
export function metricReference(): string {
  const metrics = listMetrics();
  return [
    '# Metrics',
    '',
    GENERATED,
    '',
    'What `/metrics` shows, in the form of Prometheus; beside these stand those of the process itself, as prom-client collects them,',
    'with `presync_` before their names. Which program sets which of them follows from the names.',
    '',
    '| Metric | Type | Labels | Meaning |',
    '| --- | --- | --- | --- |',
    ...metrics.map((metric) => {
      const labels = metric.labels.map((label) => `\`${label}\``);
      return `| \`${metric.name}\` | ${metric.type} | ${labels.join(', ')} | ${metric.help} |`;
    }),
    '',
  ].join('\n');
}
