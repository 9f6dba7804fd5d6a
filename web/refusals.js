/* What the service refuses and what films fail for, in Chinese: by its stable code, with the values that
   the answer carries. The service itself speaks English, which stays below where a sentence does not say
   all; `partial` is the list of those. */
import { t } from './text.js';

/* Fields that the page calls by another name, and those that it has no field for. */
const NAMES = { seconds: 'length', duration: 'length', end_image: 'endImage', input_reference: 'image', num_inference_steps: 'steps' };
const OWN = { from_segment: '起始段', segment: '段', priority: '优先级', deadline_seconds: '时限', webhook_url: '回调地址', key: '密钥', resolution: '分辨率', flow_shift: '流偏移', portrait: '竖屏', use_ret_steps: 'TeaCache 系数' };
const STATES = { queued: 'stateQueued', running: 'stateRunning', completed: 'stateCompleted', failed: 'stateFailed', cancelled: 'stateCancelled' };
const SCOPES = { read: '查看', write: '制作', admin: '管理' };

const field = ({ field: name }) => `“${OWN[name] || t(NAMES[name] || name)}”`;
const state = p => (STATES[p.value] ? `“${t(STATES[p.value])}”` : '当前状态');
const or = p => (p.allowed?.length ? `，可用：${p.allowed.join('、')}` : p.limit !== undefined ? `，上限为 ${p.limit}` : '');
const size = bytes => (bytes >= 1 << 20 ? `${Math.round(bytes / (1 << 20))} MiB` : `${bytes} 字节`);
const later = p => (p.retry_after ? `请在 ${p.retry_after} 秒后重试` : '请稍后重试');
const room = '服务器磁盘空间不足，内容没有丢失，请稍后重试。';

const SENTENCES = {
  address_not_allowed: p => `${p.value || '该地址'} 不是公网地址，服务器不会访问它。`,
  address_unreachable: p => `服务器无法访问 ${p.value || '该地址'}。`,
  beginning_unusable: () => '原影片保存的状态无法使用，不能从那里继续。',
  body_incomplete: () => '请求没有传完，请重试。',
  body_too_large: p => `请求太大，上限为 ${size(p.limit)}。请缩短提示词或使用较小的文件。`,
  busy: p => `数据库正忙，${later(p)}。`,
  deadline_exceeded: () => '影片未能在时限内完成。请放宽时限，或缩短影片。',
  disk_full: () => room,
  ending: () => '服务器正在停止，将在当前各段完成后退出。',
  enhancer_failed: () => '扩写提示词的语言模型没有响应。请关闭扩写，或稍后重试。',
  file_gone: () => '随影片提交的文件已不存在，请重新提交。',
  file_id_not_supported: p => `${field(p)}不支持 file_id，请直接发送文件。`,
  file_not_taken: p => `${field(p)}不接受文件。`,
  file_not_usable: p => (p.field ? `${field(p)}的文件无法使用。图片须为 PNG、JPEG 或 WebP，视频须为 MP4、MOV、WebM 或 Matroska。` : '文件无法使用。'),
  file_too_large: p => (p.field ? `${field(p)}的文件太大，上限为 ${size(p.limit)}。` : `${p.value} 的文件太大，上限为 ${size(p.limit)}。`),
  film_gone: p => `影片处于${state(p)}，其内容已不存在，无法从它继续。`,
  generation_failed: () => '生成时出错。',
  host_not_allowed: p => `未设密钥时只有本机可以使用此服务，而地址 ${p.value} 不属于本机。`,
  idempotency_conflict: () => '该幂等键已用于另一个请求。请原样重发那个请求，或换一个键。',
  internal: () => '服务器内部出错，原因见服务器日志。',
  invalid_form: () => '表单无法读取。',
  invalid_json: () => '请求不是有效的 JSON。',
  invalid_request: () => '当前模型无法制作这部影片。',
  invalid_value: p => (!p.field ? '请求中有不能使用的值。'
    : p.value === undefined || p.value.length > 60 ? `${field(p)}不能这样设置${or(p)}。` : p.value.trim() === '' ? `${field(p)}不能为空。` : `${field(p)}不能为 ${p.value}${or(p)}。`),
  job_unreadable: () => '此版本的程序无法读取这部影片，请重新提交。',
  key_expired: () => '密钥已过期。',
  key_malformed: () => '密钥的格式不正确，应为 Authorization: Bearer 密钥。',
  key_missing: () => '此服务需要密钥。服务的运行者可用 “longreel keys create” 创建。',
  key_revoked: () => '密钥已被吊销。',
  key_unknown: () => '密钥无效。',
  limit_reached: p => (p.field === 'num_frames' ? `影片最多 ${p.limit} 帧。请缩短影片。` : `您等待中的影片已达上限（${p.limit} 部），${later(p)}。`),
  method_not_allowed: p => `此地址不接受 ${p.value}。`,
  model_changed: p => `制作这部影片的模型 ${p.value || ''} 已变更，只有同一模型才能继续它。`,
  model_is_default: p => `${p.value || '该模型'} 是默认模型，请先将另一个模型设为默认。`,
  model_not_found: p => `没有名为 ${p.value} 的模型${or(p)}。`,
  model_not_served: p => (p.value ? `此服务已不再提供模型 ${p.value}。` : '此服务已不再提供该模型。'),
  model_unusable: () => '模型无法加载。',
  needed_by_another: () => '另一部未完成的影片由这部影片而来。请等待它完成，或先取消它。',
  no_part_yet: p => `影片还没有可播放的部分，${later(p)}。`,
  not_allowed_in_state: p => `影片处于${state(p)}，不能执行此操作。`,
  not_completed: p => `影片处于${state(p)}，尚无成片。`,
  not_found: () => '所请求的内容不存在，可能已被删除。',
  nothing_to_keep: () => '原影片没有可以保留的段，无法延长。请用相同的种子另做一部更长的影片。',
  origin_not_allowed: p => `此服务不允许来自 ${p.value} 的页面使用。`,
  out_of_memory: () => '内存不足，生成未能完成。请减小尺寸或每段帧数，或使用量化模型。',
  gpu_failed: () => '显卡出错，任务未能继续；可查看驱动与温度，或改用处理器（--device cpu）。',
  gpu_out_of_memory: () => '显存不足。请减小尺寸或基础帧数，或使用量化权重。',
  output_not_finite: () => '模型输出了无效数值，权重可能已损坏，或精度不合适。',
  priority_not_allowed: p => `此密钥不能要求优先级 ${p.value}，上限为 ${p.limit}；更高的优先级需要管理权限。`,
  queue_full: p => `队列已满（${p.limit} 部影片），${later(p)}。`,
  range_not_satisfiable: p => `所请求的范围超出文件（${p.limit} 字节）。`,
  rate_limited: p => `请求过于频繁（每分钟最多 ${p.limit} 次），${later(p)}。`,
  scope_missing: p => `此密钥没有${p.allowed?.length ? `“${SCOPES[p.allowed[0]] || p.allowed[0]}”` : '相应的'}权限，请使用其他密钥。`,
  segment_begun: p => (p.allowed?.length ? `该段已开始生成，最早可以修改的是第 ${Number(p.allowed[0]) + 1} 段。` : '所有段都已开始生成。可以另起分支，或在完成后延长。'),
  segment_not_kept: p => `第 ${Number(p.value) + 1} 段之后的状态没有保存，无法从那里继续，请选择其他段。`,
  segment_not_made: p => `该段尚未完成，目前只能选择第 1 段到第 ${p.limit + 1} 段。`,
  starting: () => '模型还在加载，提交的影片会排队等待。',
  storage_failed: () => '影片文件无法读取或写入。',
  unknown_key: p => `没有名为 ${p.field} 的设置${p.allowed?.length === 1 ? `，是否为 ${p.allowed[0]}？` : '。'}`,
  unsupported_media_type: p => `不接受的内容类型${p.value ? ` ${p.value}` : ''}，请使用 JSON 或表单。`,
  worker_died: () => '生成这部影片的工作进程多次意外退出，可能是内存不足。请减小尺寸或使用较小的模型。',
};

/* What differs from case to case in a way that no value tells. */
const PARTIAL = new Set(['beginning_unusable', 'file_not_usable', 'generation_failed', 'invalid_form', 'invalid_json', 'invalid_request',
  'invalid_value', 'model_unusable', 'output_not_finite', 'gpu_failed', 'gpu_out_of_memory', 'storage_failed', 'worker_died', 'address_unreachable', 'nothing_to_keep']);

export const codes = () => Object.keys(SENTENCES);

/** The sentence for a refusal or the error of a film, and whether the English text says more; null for a code that is not known. */
export function sentence(about) {
  const made = Object.hasOwn(SENTENCES, about.code) ? SENTENCES[about.code](about) : null;
  return made && { text: made, isPartial: PARTIAL.has(about.code) };
}
