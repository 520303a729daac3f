import type { Arrangement } from './competitors.ts';
import {
  type Cell,
  durableSeconds,
  findCell,
  type Results,
  type Spread,
  STEPS,
  type Step,
  spread,
} from './results.ts';
import { targetsOf } from './targets.ts';
import type { TreeKind } from './tree-plan.ts';

/** The tool that all ratios are against. */
const SUBJECT = 'presync';

const MIB = 1024 * 1024;
/** Within this share of the fastest, nobody has won or lost. */
const TIE = 0.03;
/** Above this share of the cores, other work on the machine spoils a measurement. */
const DISTURBED = 0.1;

const ARRANGEMENTS: Record<Arrangement, string> = {
  throttled: 'S3, each connection limited',
  loopback: 'S3 on plain loopback',
  file: 'folder on the same disk',
};

/** The report for people. Holds no path and no host name of the machine that it was made on. */
export function renderReport(results: Results): string {
  const { options, machine } = results;
  const lines: string[] = [
    `# Benchmark \`${results.name}\``,
    '',
    `${results.date}. Trees of ${gib(options.size)} GiB, seed ${options.seed}, ${options.repeat} ${options.repeat === 1 ? 'repetition' : 'repetitions'}; medians, with the smallest and the largest in brackets. Tools take turns in an order that moves on by one each repetition.`,
    '',
    ...disturbances(results),
    '## Machine and versions',
    '',
    ...table(
      ['what', 'value'],
      [...Object.entries(machine), ...Object.entries(results.versions)].map(([key, value]) => [
        key,
        String(value),
      ]),
    ),
    '',
    '## Trees',
    '',
    ...table(
      ['tree', 'files', 'apparent', 'on disk', 'zstd -3 ratio', 'changed before the second snapshot'],
      results.trees.map((tree) => [
        tree.kind,
        String(tree.files),
        `${mib(tree.bytes)} MiB`,
        `${mib(tree.allocatedBytes)} MiB`,
        tree.ratio.toFixed(3),
        `${mib(tree.changedBytes)} MiB in ${tree.changedFiles} files`,
      ]),
    ),
    '',
    '## What the arrangement can carry',
    '',
    `The proxy gives each connection ${(options.bytesPerSecond / 1e6).toFixed(0)} MB/s in each direction and ${options.firstByteMs} ms to the first byte of a response. It runs, like the server, on the same cores as the tools. Measured with curl to /dev/null:`,
    '',
    ...table(
      ['what', 'connections', 'MB/s', 'proxy CPU s/GB', 'server CPU s/GB'],
      results.ceilings.map((ceiling) => [
        ceiling.what,
        String(ceiling.connections),
        (ceiling.bytesPerSecond / 1e6).toFixed(0),
        ceiling.proxySecondsPerGb.toFixed(2),
        ceiling.serverSecondsPerGb.toFixed(2),
      ]),
    ),
    '',
    `The disk writes ${(results.disk.writeBytesPerSecond / 1e6).toFixed(0)} MB/s with fsync, and reads ${(results.disk.readBytesPerSecond / 1e6).toFixed(0)} MB/s with an empty cache.`,
    '',
    '## Results',
    '',
    "Durable: until `sync` of the file system is through after the command (presync syncs by itself). \"× presync\" is durable time ÷ presync's: above 1 presync is faster. MB/s is the tree's apparent size ÷ durable time. CPU is the tool's own; server and proxy are apart. RSS is the highest sum over the tool's processes.",
    '',
  ];
  for (const tree of results.trees)
    for (const arrangement of Object.keys(ARRANGEMENTS) as Arrangement[])
      for (const step of STEPS) lines.push(...section(results, tree.kind, tree.bytes, arrangement, step));
  lines.push('## Against the numbers of DESIGN 8', '');
  const targets = targetsOf(results);
  lines.push(
    ...table(
      ['number', 'tree', 'wanted', 'measured', 'met'],
      targets.map((target) => [
        target.what,
        target.tree,
        target.wanted,
        target.measured,
        target.met ? 'yes' : '**no**',
      ]),
    ),
    '',
    '## Where presync loses',
    '',
    ...losses(results),
    '',
  );
  if (results.remarks.length > 0)
    lines.push('## Remarks', '', ...results.remarks.map((remark) => `- ${remark}`), '');
  lines.push('## Commands', '', 'As they were run, with the variables of `bench/lib/competitors.ts`.', '');
  const uses = new Map<string, Set<string>>();
  for (const cell of results.cells) {
    const key = `${cell.tool}: \`${cell.script}\``;
    const use = `${cell.step} (${cell.arrangement === 'file' ? 'folder' : 'S3'})`;
    uses.set(key, (uses.get(key) ?? new Set()).add(use));
  }
  for (const [command, steps] of uses) lines.push(`- ${[...steps].join(', ')}, ${command}`);
  return `${lines.join('\n')}\n`;
}

function section(
  results: Results,
  tree: TreeKind,
  bytes: number,
  arrangement: Arrangement,
  step: Step,
): string[] {
  const cells = results.cells.filter(
    (cell) =>
      cell.tree === tree && cell.arrangement === arrangement && cell.step === step && cell.samples.length > 0,
  );
  if (cells.length === 0) return [];
  const own = findCell(results, tree, arrangement, step, SUBJECT);
  const cores = Number(results.machine.cores);
  const rows = cells.map((cell) => {
    const durable = spread(cell.samples.map(durableSeconds));
    const of = (pick: (sample: Cell['samples'][number]) => number): number =>
      spread(cell.samples.map(pick)).median;
    const ratio =
      own === undefined ? '–' : (durable.median / spread(own.samples.map(durableSeconds)).median).toFixed(2);
    const wire = arrangement === 'throttled';
    return [
      cell.tool,
      seconds(durable),
      seconds(spread(cell.samples.map((sample) => sample.wallSeconds))),
      ratio,
      (bytes / durable.median / 1e6).toFixed(0),
      `${of((sample) => sample.userSeconds).toFixed(1)} + ${of((sample) => sample.systemSeconds).toFixed(1)}`,
      `${of((sample) => sample.serverSeconds).toFixed(1)} / ${of((sample) => sample.proxySeconds).toFixed(1)}`,
      `${(otherLoad(cell, cores) * 100).toFixed(0)} %`,
      mib(Math.max(...cell.samples.map((sample) => sample.peakRssBytes))),
      wire
        ? `${mib(of((sample) => sample.sentBytes ?? 0))} / ${mib(of((sample) => sample.receivedBytes ?? 0))}`
        : '–',
      mib(of((sample) => sample.storedBytes)),
    ];
  });
  return [
    `### ${tree}, ${ARRANGEMENTS[arrangement]}: ${step}`,
    '',
    ...table(
      [
        'tool',
        'durable s',
        'command s',
        '× presync',
        'MB/s',
        'CPU user + sys s',
        'CPU server / proxy s',
        'other load',
        'RSS MiB',
        'sent / received MiB',
        'stored MiB',
      ],
      rows,
    ),
    '',
  ];
}

/** One line for each place where another tool is faster, with what the figures say about the reason. */
function losses(results: Results): string[] {
  const lines: string[] = [];
  const cores = Number(results.machine.cores);
  for (const own of results.cells.filter((cell) => cell.tool === SUBJECT && cell.samples.length > 0)) {
    const mine = spread(own.samples.map(durableSeconds)).median;
    const rivals = results.cells
      .filter((cell) => cell.tool !== SUBJECT && cell.samples.length > 0)
      .filter(
        (cell) => cell.tree === own.tree && cell.arrangement === own.arrangement && cell.step === own.step,
      )
      .map((cell) => ({ tool: cell.tool, seconds: spread(cell.samples.map(durableSeconds)).median }))
      .filter((rival) => rival.seconds < mine * (1 - TIE));
    if (rivals.length === 0) continue;
    const median = (pick: (sample: Cell['samples'][number]) => number): number =>
      spread(own.samples.map(pick)).median;
    const cpu = median((sample) => sample.userSeconds + sample.systemSeconds);
    const others = median((sample) => sample.serverSeconds + sample.proxySeconds);
    const busy = (cpu + others) / (mine * cores);
    const elsewhere = otherLoad(own, cores);
    const shares = `the ${cores} cores are ${(busy * 100).toFixed(0)} % busy with this (presync ${cpu.toFixed(1)} s, server and proxy ${others.toFixed(1)} s)`;
    const reason =
      busy + elsewhere < 0.8
        ? `${shares}, so the time goes into waiting for disk or store`
        : elsewhere > DISTURBED
          ? `${shares} and ${(elsewhere * 100).toFixed(0)} % with something else, so this says little`
          : `${shares}, so CPU is the limit`;
    const list = rivals.map(
      (rival) =>
        `${rival.tool} (${rival.seconds.toFixed(1)} s, ${(mine / rival.seconds).toFixed(2)} times as fast)`,
    );
    lines.push(
      `- ${own.tree}, ${ARRANGEMENTS[own.arrangement]}, ${own.step}: presync takes ${mine.toFixed(1)} s and loses to ${list.join(', ')}; ${reason}.`,
    );
  }
  if (!results.cells.some((cell) => cell.tool === SUBJECT && cell.samples.length > 0))
    return ['- presync was not measured in this run.'];
  if (!results.cells.some((cell) => cell.tool !== SUBJECT && cell.samples.length > 0))
    return ['- Nothing else was measured in this run.'];
  return lines.length === 0 ? ['- Nowhere in this run.'] : lines;
}

/** Share of the machine's cores that neither the tool nor its server and proxy used, but something else. */
function otherLoad(cell: Cell, cores: number): number {
  return spread(cell.samples.map((sample) => sample.otherSeconds / (durableSeconds(sample) * cores))).median;
}

/** Figures taken on a machine that others use are worth little: say so. */
function disturbances(results: Results): string[] {
  const loads = results.cells
    .filter((cell) => cell.samples.length > 0)
    .map((cell) => otherLoad(cell, Number(results.machine.cores)));
  const disturbed = loads.filter((load) => load > DISTURBED).length;
  if (disturbed === 0) return [];
  return [
    `**Not a quiet machine**: in ${disturbed} of ${loads.length} measurements something else used more than ${DISTURBED * 100} % of the cores. Run it again alone before anything is concluded from it.`,
    '',
  ];
}

function table(head: string[], rows: string[][]): string[] {
  const line = (cells: string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)];
}

function seconds(value: Spread): string {
  return `${value.median.toFixed(2)} (${value.min.toFixed(2)}–${value.max.toFixed(2)})`;
}

function mib(bytes: number): string {
  return (bytes / MIB).toFixed(bytes < 10 * MIB ? 1 : 0);
}

function gib(bytes: number): string {
  return String(Math.round((bytes / 1024 ** 3) * 1000) / 1000);
}
