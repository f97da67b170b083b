// What node-postgres does with a server, told as lines `ok NAME`; it stops at the first failure.
//
// Where the server is comes from the variables of libpq, which the driver reads by itself. The
// first argument names a table that does not exist yet and is dropped at the end.
'use strict'

const assert = require('node:assert')
const { Client, Pool } = require('pg')

const table = process.argv[2]

const stories = {
  async queries (client) {
    await client.query(`create table ${table} (a int primary key, b text)`)
    const insert = `insert into ${table} select g, 'row ' || g from generate_series(1, 500) g`
    assert.strictEqual((await client.query(insert)).rowCount, 500)
    const one = await client.query(`select * from ${table} where a = $1`, [7])
    assert.deepStrictEqual(one.rows, [{ a: 7, b: 'row 7' }])
    const two = await client.query('select 1 as a; select 2 as b')
    assert.deepStrictEqual(two.map(result => result.rows[0]), [{ a: 1 }, { b: 2 }])
    const arrays = await client.query({ text: 'select $1::int[] v, null n', values: [[1, 2]], rowMode: 'array' })
    assert.deepStrictEqual(arrays.rows, [[[1, 2], null]])
    const large = await client.query('select $1::text v', ['x'.repeat(3000000)])
    assert.strictEqual(large.rows[0].v.length, 3000000)
  },

  async prepared (client) {
    for (let number = 0; number < 20; number++) {
      const query = { name: `by-key-${number % 3}`, text: `select b from ${table} where a = $1 + 0 * ${number % 3}` }
      const found = await client.query({ ...query, values: [number + 1] })
      assert.strictEqual(found.rows[0].b, `row ${number + 1}`)
    }
    const all = Array.from({ length: 100 }, (_, n) => client.query('select $1::int n', [n]))
    assert.deepStrictEqual((await Promise.all(all)).map(found => found.rows[0].n), [...Array(100).keys()])
  },

  async binary (client) {
    const found = await client.query({ text: 'select $1::int4 as a', values: [5], binary: true })
    assert.strictEqual(found.rows[0].a, 5)
  },

  async errors (client) {
    const unique = { code: '23505', table, constraint: `${table}_pkey`, severity: 'ERROR' }
    await assert.rejects(client.query(`insert into ${table} values (1)`), unique)
    await assert.rejects(client.query('select $1::int', ['word']), { code: '22P02' })
    await assert.rejects(client.query('selec 1'), { code: '42601', position: '1' })
    assert.strictEqual((await client.query('select 1 as a')).rows[0].a, 1)
  },

  async transactions (client) {
    await client.query('begin')
    await client.query(`delete from ${table}`)
    await client.query('rollback')
    const found = await client.query(`select count(*)::int as n from ${table}`)
    assert.strictEqual(found.rows[0].n, 500)
  },

  async notifications (client) {
    const heard = new Promise(resolve => client.once('notification', resolve))
    await client.query(`listen ${table}`)
    const other = new Client()
    await other.connect()
    await other.query(`notify ${table}, 'told'`)
    await other.end()
    assert.strictEqual((await heard).payload, 'told')
  },

  async pool () {
    const pool = new Pool({ max: 5 })
    const work = Array.from({ length: 50 }, (_, n) => pool.query('select $1::int n, pg_sleep(0.001)', [n]))
    assert.strictEqual((await Promise.all(work)).filter((found, n) => found.rows[0].n === n).length, 50)
    await pool.end()
  },

  async passwords () {
    const client = new Client({ password: 'not the password' })
    await assert.rejects(client.connect(), { code: '28P01' })
  }
}

async function main () {
  assert.ok(table)
  const client = new Client()
  await client.connect()
  for (const [name, story] of Object.entries(stories)) {
    await story(client)
    console.log(`ok ${name}`)
  }
  await client.query(`drop table ${table}`)
  await client.end()
}

main().catch(error => {
  console.error(error)
  process.exit(1)
})
