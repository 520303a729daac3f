/** Words as shells and systemd make them; a real shell is asked where one can be. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import fc from 'fast-check';
import { needs } from '../../../test/support/needs.ts';
import { shellCommands } from '../src/lib/shell-command.ts';
import { expandWords, parseEnvironmentFile, splitWords } from '../src/lib/systemd-words.ts';

// dash makes an empty word between "$@" and a variable with two blanks in it.
const hasBash = spawnSync('bash', ['--posix', '-c', 'true']).status === 0;

const ENVIRONMENT = { A: 'one', B: 'two  words', E: '', Q: `"it's"` };

test('what is understood of a script is what a shell makes of it', needs('bash', hasBash), () => {
  const piece = fc.constantFrom(
    ...[
      'x',
      'yz',
      '-d',
      '=',
      ' ',
      '  ',
      "'",
      '"',
      '\\',
      '$A',
      '$B',
      '"$B"',
      `\${A}`,
      `\${E:-d}`,
      '$E',
      '$Q',
      '$1',
    ],
    ...['"$@"', '$@', '\\\n', '#', 'A=b', ';', '$', `\${N-n}`, "'$A'", '"\\$A"', '/', '2>&1', '>f'],
  );
  let understood = 0;
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 9 }), (pieces) => {
      const script = `node ${pieces.join('')}`;
      const parameters = ['sh', 'p 1', 'p2'];
      const mine = shellCommands(script, { environment: ENVIRONMENT, parameters });
      if (mine === undefined || mine.length !== 1) return;
      // The shell's own function in place of the program; redirections go nowhere.
      const harness = `cd "$(mktemp -d)"; : > f; node() { printf '%s\\0' "$#" "$@" >&3; }\n${script}\n`;
      const theirs = spawnSync('bash', ['--posix', '-c', harness, ...parameters], {
        env: { PATH: process.env.PATH ?? '', ...ENVIRONMENT },
        stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
      });
      // What is no script to the shell need be none to us.
      if (theirs.status !== 0) return;
      understood += 1;
      const words = String(theirs.output[3]).split('\0').slice(0, -1);
      assert.deepEqual(mine[0]?.words.slice(1), words.slice(1), script);
    }),
    { numRuns: 300 },
  );
  assert.ok(understood > 50, `${understood} scripts were compared`);
});

test('variables in an ExecStart= are put in as systemd does', () => {
  assert.deepEqual(
    expandWords(
      [`\${A}`, '$A', '$B', `\${B}`, `x\${A}y$A`, '$$A', '$NONE', `\${NONE}`, '$Q', `--a=\${B}`, '$'],
      ENVIRONMENT,
    ),
    ['one', 'one', 'two', 'words', 'two  words', 'xoney$A', '$A', '', "it's", '--a=two  words', '$'],
  );
  assert.deepEqual(splitWords(`a "b c" 'd e' f\\ g "h\\"i"`), ['a', 'b c', 'd e', 'f g', 'h"i']);
});

test('a file of variables is read as systemd does', () => {
  const text = `# a comment \\
A=1
 B = two words \t
; B=no
C="quoted \\"x\\" \\$y \\z"tail
D='single \\n' "double"
E=
F=a\\
b
G=it's "so"
=nothing
no assignment
1X=bad
H="two
lines"
A=2
I=last\\ `;
  assert.deepEqual(parseEnvironmentFile(text), {
    A: '2',
    B: 'two words',
    C: 'quoted "x" $y \\ztail',
    D: 'single \\ndouble',
    E: '',
    F: 'ab',
    G: `it's "so"`,
    H: 'two\nlines',
    I: 'last ',
  });
});
