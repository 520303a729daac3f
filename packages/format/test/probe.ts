import { createNativeCodec, createWasmCodec } from '@presync/format/codec';
import { randomBytes } from 'node:crypto';
const native = createNativeCodec(), wasm = await createWasmCodec();
function bomb(claim: number, blocks: number, window: number) {
  const head = Buffer.alloc(10); head.writeUInt32LE(0xfd2fb528,0); head.writeUInt8(0x80,4); head.writeUInt8(window,5); head.writeUInt32LE(claim, 6);
  // one tiny compressed block repeated: literals RLE type 1, size 131071 (3-byte header), 0 sequences
  const block = Buffer.from([0,0,0, 0,0,0, 65, 0]);
  const lit = (131072<<4)|(3<<2)|1; block.writeUIntLE(lit & 0xffffff,3,3);
  const body: Buffer[]=[];
  for (let i=0;i<blocks;i++){ const b=Buffer.from(block); b.writeUIntLE((5<<3)|(2<<1)|(i===blocks-1?1:0),0,3); body.push(b);}
  return Buffer.concat([head,...body]);
}
const one = (n:number)=>{const b=bomb(n,Math.ceil(n/131072),0x38); return b;};
for (const c of [native,wasm]) for (const [claim,blocks] of [[131072,1],[4194304,32],[4194304,40],[4194304,20000]] as const) {
  const t=Date.now(); const rss=process.memoryUsage().rss;
  const r = await c.decode(bomb(claim,blocks,0x38),{length:claim,what:'b'}).then(x=>x.length,(x:Error)=>`${(x as any).code} ${x.message}`);
  console.log(c.name, claim, blocks, r, Date.now()-t,'ms', ((process.memoryUsage().rss-rss)/1e6).toFixed(0),'MB');
}
for (const n of [4<<20, 64<<20]) { const p = randomBytes(n); 
 for (const c of [native,wasm]) for (const d of [native,wasm]) { let t=performance.now(); const f = await c.encode(p,{level:3}); const e=performance.now()-t; t=performance.now(); const r = await d.decode(f,{length:n,what:'x'}).then((x)=>Buffer.compare(x,p), (x)=>x.message); console.log(n,c.name,d.name,f.length-n,r,e.toFixed(1),(performance.now()-t).toFixed(1)); } }
const z = Buffer.alloc(64<<20, 'hello zstd'); for (const c of [native,wasm]) for (const d of [native,wasm]) { const f = await c.encode(z,{level:19}); console.log(c.name,d.name,f.length, await d.decode(f,{length:z.length,what:'x'}).then((x)=>Buffer.compare(x,z), (x)=>x.message)); }
