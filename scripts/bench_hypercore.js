// What hypercore needs for the messages of a file, for scripts/bench feeds:
//   node bench_hypercore.js append|batch|read|serve|fetch FILE FOLDER [PORT KEY]
// Prints one line of JSON. The module is found through NODE_PATH.
'use strict'

const fs = require('fs')
const net = require('net')
const Hypercore = require('hypercore')

const [what, file, folder, port, key] = process.argv.slice(2)
const messages = fs.readFileSync(file).toString().trimEnd().split('\n').map((line) => Buffer.from(line))
const now = () => Number(process.hrtime.bigint()) / 1e9
const tell = (seconds) => console.log(JSON.stringify({ per_second: messages.length / seconds }))

async function main () {
  const core = new Hypercore(folder, key ? Buffer.from(key, 'hex') : undefined)
  await core.ready()
  if (what === 'append') {
    const start = now()
    for (const message of messages) await core.append(message)
    tell(now() - start)
  } else if (what === 'batch') {
    const start = now()
    await core.append(messages)
    tell(now() - start)
  } else if (what === 'read') {
    await core.append(messages)
    const start = now()
    let count = 0
    for await (const block of core.createReadStream()) count += JSON.parse(block.toString()) ? 1 : 0
    if (count !== messages.length) throw new Error('messages are missing')
    tell(now() - start)
  } else if (what === 'serve') {
    await core.append(messages)
    const server = net.createServer({ noDelay: true }, (socket) => {
      socket.on('error', () => {})
      socket.pipe(core.replicate(false)).pipe(socket)
    })
    server.listen(0, '127.0.0.1', () => {
      console.log(JSON.stringify({ port: server.address().port, key: core.key.toString('hex') }))
    })
    return
  } else if (what === 'fetch') {
    const start = now()
    const socket = net.connect({ port: Number(port), host: '127.0.0.1', noDelay: true })
    socket.pipe(core.replicate(true)).pipe(socket)
    await core.download({ start: 0, end: messages.length }).done()
    const seconds = now() - start
    if (core.contiguousLength !== messages.length) throw new Error('messages are missing')
    tell(seconds)
  }
  process.exit(0)
}

main()
