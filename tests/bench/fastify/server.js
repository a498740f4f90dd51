// Fastify and postgres.js as their documentation shows: a schema for the body and one for the
// response, and one insert of all rows by the sql() helper. All or nothing, no credentials.
// Run by the benchmark with DATABASE_URL and PORT in the environment.
import Fastify from 'fastify'
import postgres from 'postgres'

const sql = postgres(process.env.DATABASE_URL, { max: 10 })
const fastify = Fastify({ bodyLimit: 2 ** 27 })

const text = { type: ['string', 'null'] }
const code = { ...text, maxLength: 64 }
const userName = { ...text, maxLength: 20 }
const key = { type: 'integer', minimum: -(2 ** 31), maximum: 2 ** 31 - 1 }
const dateTime = { type: 'string', format: 'date-time' }

const item = {
  type: 'object',
  required: ['careCaseClinicalTrial_Key', 'entry_Date', 'update_Date'],
  additionalProperties: false,
  properties: {
    careCaseClinicalTrial_Key: key,
    careCaseClinicalTrialArm_ID: code,
    careCaseClinicalTrialReason_ID: code,
    careCaseClinicalTrialStudyPhase_ID: code,
    case_Key: { ...key, type: ['integer', 'null'] },
    comment: text,
    disease: text,
    entry_Date: dateTime,
    entry_User: userName,
    inclusionExclusion: text,
    location: text,
    protocol_Number: text,
    study_Drug: text,
    study_Length: text,
    study_Title: text,
    update_Date: dateTime,
    update_User: userName,
    website: text
  }
}

const envelope = {
  type: 'object',
  properties: {
    data: {
      type: 'array',
      items: {
        type: 'object',
        properties: {
          id: {
            type: 'array',
            items: {
              type: 'object',
              properties: { key: { type: 'string' }, value: { type: 'string' } }
            }
          },
          status: { type: 'integer' },
          body: { type: 'string' }
        }
      }
    },
    error: { type: 'null' }
  }
}

const toRow = (item) => ({
  care_case_clinical_trial_key: item.careCaseClinicalTrial_Key,
  care_case_clinical_trial_arm_id: item.careCaseClinicalTrialArm_ID ?? null,
  care_case_clinical_trial_reason_id: item.careCaseClinicalTrialReason_ID ?? null,
  care_case_clinical_trial_study_phase_id: item.careCaseClinicalTrialStudyPhase_ID ?? null,
  case_key: item.case_Key ?? null,
  comment: item.comment ?? null,
  disease: item.disease ?? null,
  entry_date: item.entry_Date,
  entry_user: item.entry_User ?? null,
  inclusion_exclusion: item.inclusionExclusion ?? null,
  location: item.location ?? null,
  protocol_number: item.protocol_Number ?? null,
  study_drug: item.study_Drug ?? null,
  study_length: item.study_Length ?? null,
  study_title: item.study_Title ?? null,
  update_date: item.update_Date,
  update_user: item.update_User ?? null,
  website: item.website ?? null
})

const toOutcome = (item) => ({
  id: [{ key: 'careCaseClinicalTrial_Key', value: String(item.careCaseClinicalTrial_Key) }],
  status: 200,
  body: 'Stored'
})

const schema = { body: { type: 'array', items: item }, response: { 207: envelope } }

// PostgreSQL takes 65,535 parameters a statement, 18 a row.
const mostRows = 3640

const kept = ['care_case_clinical_trial_key', 'entry_date', 'entry_user']
const replaced = Object.keys(toRow({})).filter((column) => !kept.includes(column))
const updates = sql.unsafe(replaced.map((column) => `${column} = excluded.${column}`).join(', '))

const upsert = (sql, rows) => sql`
  insert into care_case_clinical_trial ${sql(rows)}
  on conflict (care_case_clinical_trial_key) do update set ${updates}`

fastify.put('/care-case-clinical-trials-batch', { schema }, async (request, reply) => {
  const rows = request.body.map(toRow)
  if (rows.length <= mostRows) {
    await upsert(sql, rows)
  } else {
    await sql.begin(async (sql) => {
      for (let start = 0; start < rows.length; start += mostRows) {
        await upsert(sql, rows.slice(start, start + mostRows))
      }
    })
  }
  return reply.code(207).send({ data: request.body.map(toOutcome), error: null })
})

await fastify.listen({ host: '127.0.0.1', port: Number(process.env.PORT) })
