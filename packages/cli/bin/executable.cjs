// The entry of the single executable. What the launcher does for a checkout, it does by starting itself a second time;
// only then is the program, which is an asset of some megabytes, compiled.
'use strict';
const { createRequire } = require('node:module');
const { getAsset } = require('node:sea');
const { Script } = require('node:vm');
const { tunedEnvironment } = require('./tuning.mjs');

const env = tunedEnvironment(process.env);
if (env.PRESYNC_TUNED !== process.env.PRESYNC_TUNED || process.env.UV_THREADPOOL_SIZE === undefined) {
  // Replaces this process. What has just been set is found set, so it happens once.
  process.execve(process.execPath, [process.execPath, ...process.argv.slice(2)], env);
}
new Script(getAsset('program.cjs', 'utf8'), { filename: 'presync' }).runInThisContext()(
  createRequire(process.execPath),
);
