import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmod, cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { COMMAND_NAMES } from '../../packages/runtime/src/commands.ts';
import { flagOf, OPTION_NAMES, optionOf } from '../../packages/runtime/src/options.ts';
import { buildDebianPackage } from '../../scripts/lib/package/debian.ts';
import { buildExecutable } from '../../scripts/lib/package/executable.ts';
import { sampleConfig } from '../../scripts/lib/package/sample-config.ts';
import { needs } from '../support/needs.ts';
import { builtPackage, hasProgram } from '../support/package.ts';
import { presync } from '../support/presync.ts';

const run = promisify(execFile);
const can = needs('dpkg-deb', await hasProgram('dpkg-deb'));
const needsAlso = async (program: string) =>
  can.skip === false ? needs(program, await hasProgram(program)) : can;

let scratch: string;
let deb: string;
let executable: string;
let root: string;

before(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'presync-deb-'));
  root = join(scratch, 'root');
  if (can.skip !== false) return;
  const built = await builtPackage();
  executable = built.executable;
  deb = built.deb ?? '';
  await run('dpkg-deb', ['--extract', deb, root]);
});
after(() => rm(scratch, { recursive: true, force: true }));

test('lintian finds nothing', await needsAlso('lintian'), async () => {
  // Its spell checker reads the whole executable, for words that are not presync's.
  const { stdout } = await run('lintian', [
    ...['--allow-root', '--suppress-tags=spelling-error-in-binary'],
    ...['--fail-on=error,warning', '--no-tag-display-limit', deb],
  ]).catch((error: { stdout: string; stderr: string }) => {
    throw new Error(`${error.stdout}${error.stderr}`);
  });
  assert.equal(stdout, '');
});

test('the same sources give the same bytes', can, async () => {
  const again = await buildExecutable(join(scratch, 'elsewhere/presync'));
  const digest = async (path: string) =>
    createHash('sha256')
      .update(await readFile(path))
      .digest('hex');
  assert.equal(await digest(again.path), await digest(executable));
  // As somebody builds it whose files are private.
  const mask = process.umask(0o077);
  try {
    await chmod(again.path, 0o700);
    const other = await buildDebianPackage(again, join(scratch, 'elsewhere'));
    assert.equal(await digest(other), await digest(deb));
  } finally {
    process.umask(mask);
  }
});

test(
  'the manual pages tell of every command and option, and have no mistakes',
  await needsAlso('man'),
  async () => {
    const read = async (page: string) => {
      const { stdout, stderr } = await run(
        'man',
        ['--warnings', '--local-file', join(root, 'usr/share/man', page)],
        {
          env: { ...process.env, MANWIDTH: '500', LC_ALL: 'C.UTF-8', MAN_KEEP_FORMATTING: '' },
        },
      );
      assert.equal(stderr, '');
      return stdout;
    };
    const command = await read('man1/presync.1.gz');
    for (const name of COMMAND_NAMES) assert.match(command, new RegExp(`^ +presync ${name}\\b`, 'm'));
    for (const name of OPTION_NAMES) assert.match(command, new RegExp(`^ +${flagOf(name)}\\b`, 'm'));
    const config = await read('man5/presync.yaml.5.gz');
    for (const name of OPTION_NAMES)
      if (optionOf(name).inFile !== false) assert.match(config, new RegExp(`^ +${name}\\b`, 'm'));
  },
);

test('the configuration of a new installation says nothing, and what it shows can be set', async () => {
  const path = join(scratch, 'presync.yaml');
  const text = sampleConfig();
  for (const content of [text, text.replaceAll(/^#([a-zA-Z]+: .)/gm, '$1')]) {
    await writeFile(path, content);
    const outcome = await presync(['config', 'print', '--config', path, '--json']);
    assert.equal(outcome.code, 0, outcome.stderr);
  }
  for (const name of OPTION_NAMES)
    assert.equal(new RegExp(`^#${name}:`, 'm').test(text), optionOf(name).inFile !== false, name);
  await cp(path, join(scratch, 'uncommented.yaml'));
  assert.match(await readFile(path, 'utf8'), /^minPeers: 1$/m);
});

/** What bash offers for a line whose last word is to be completed. */
async function bashOffers(...words: string[]): Promise<string[]> {
  const script = `source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); compopt() { :; }; _presync; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const file = join(root, 'usr/share/bash-completion/completions/presync');
  const { stdout } = await run('bash', ['-c', script, 'bash', file, ...words]);
  return stdout.split('\n').filter(Boolean);
}

test('bash completes commands, options and values', await needsAlso('bash'), async () => {
  assert.deepEqual(await bashOffers('presync', 'snapshott'), ['snapshotter']);
  assert.deepEqual((await bashOffers('presync', 'keys', '')).toSorted(), ['new', 'public']);
  assert.deepEqual(await bashOffers('presync', 'keys', 'new', '--ou'), ['--out']);
  assert.deepEqual(await bashOffers('presync', 'restore', '--existing', 're'), [
    'refuse',
    'reuse',
    'replace',
  ]);
  assert.deepEqual(await bashOffers('presync', 'list', '--sched'), []);
  assert.ok((await bashOffers('presync', 'snapshotter', '--sched')).includes('--schedule'));
});

test('fish completes commands, options and values', await needsAlso('fish'), async () => {
  const file = join(root, 'usr/share/fish/vendor_completions.d/presync.fish');
  const offers = async (line: string) => {
    const { stdout, stderr } = await run(
      'fish',
      ['--no-config', '-c', `source ${file}; complete -C '${line}'`],
      {
        env: { ...process.env, HOME: scratch },
      },
    );
    assert.equal(stderr, '');
    return stdout
      .split('\n')
      .filter(Boolean)
      .map((offer) => offer.split('\t')[0]);
  };
  assert.deepEqual(await offers('presync snapshott'), ['snapshotter']);
  assert.deepEqual((await offers('presync keys ')).toSorted(), ['new', 'public']);
  assert.deepEqual(await offers('presync keys new --ou'), ['--out']);
  assert.deepEqual(await offers('presync restore --existing ref'), ['refuse']);
  assert.deepEqual(await offers('presync list --sched'), []);
});

test('zsh reads its completion', await needsAlso('zsh'), async () => {
  const file = join(root, 'usr/share/zsh/vendor-completions/_presync');
  await run('zsh', ['--no-exec', file]);
  assert.match(await readFile(file, 'utf8'), /^#compdef presync\n/);
});
