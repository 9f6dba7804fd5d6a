//! What the tokenizer needs of a `spiece.model`, sentencepiece's file: a protobuf message, defined in
//! its `src/sentencepiece_model.proto`.

/// A sentencepiece model.
pub(super) struct SpieceModel<'a> {
    pub pieces: Vec<SpiecePiece>,
    /// 1 is Unigram.
    pub model_type: u64,
    pub byte_fallback: bool,
    /// The id of the end token; negative if there is none.
    pub end: i64,
    /// Compiled character rules; empty if there are none.
    pub charsmap: &'a [u8],
    /// A space goes before the text.
    pub dummy_prefix: bool,
    /// Spaces at the ends go, others are joined.
    pub joins_spaces: bool,
    /// Spaces become a visible character.
    pub escapes_spaces: bool,
}

/// One entry of the vocabulary; its place is its id.
pub(super) struct SpiecePiece {
    pub text: String,
    /// Finite.
    pub score: f64,
    /// One of [`kind`].
    pub kind: u64,
}

/// The types of pieces that matter; control pieces (3) and unused ones (5) are never cut out of a text.
pub(super) mod kind {
    pub const NORMAL: u64 = 1;
    pub const UNKNOWN: u64 = 2;
    pub const USER_DEFINED: u64 = 4;
    pub const BYTE: u64 = 6;
}

impl<'a> SpieceModel<'a> {
    /// Reads a message; absent fields have the defaults that the definition gives.
    pub fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let mut model = Self {
            pieces: Vec::new(),
            model_type: 1,
            byte_fallback: false,
            end: 2,
            charsmap: &[],
            dummy_prefix: true,
            joins_spaces: true,
            escapes_spaces: true,
        };
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(message)) => model.pieces.push(piece(message)?),
                (2, Value::Bytes(message)) => model.read_trainer(message)?,
                (3, Value::Bytes(message)) => model.read_normalizer(message)?,
                _ => {}
            }
        }
        Ok(model)
    }

    fn read_trainer(&mut self, message: &[u8]) -> Result<(), String> {
        for field in Fields(message) {
            match field? {
                (3, Value::Varint(kind)) => self.model_type = kind,
                (35, Value::Varint(flag)) => self.byte_fallback = flag != 0,
                // A negative number is written as its two's complement.
                (42, Value::Varint(id)) => self.end = id.cast_signed(),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, message: &'a [u8]) -> Result<(), String> {
        for field in Fields(message) {
            match field? {
                (2, Value::Bytes(blob)) => self.charsmap = blob,
                (3, Value::Varint(flag)) => self.dummy_prefix = flag != 0,
                (4, Value::Varint(flag)) => self.joins_spaces = flag != 0,
                (5, Value::Varint(flag)) => self.escapes_spaces = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }
}

fn piece(message: &[u8]) -> Result<SpiecePiece, String> {
    let mut piece = SpiecePiece { text: String::new(), score: 0.0, kind: kind::NORMAL };
    for field in Fields(message) {
        match field? {
            (1, Value::Bytes(text)) => {
                piece.text = std::str::from_utf8(text)
                    .map_err(|error| format!("it has a piece that is not UTF-8: {error}"))?
                    .to_owned();
            }
            (2, Value::Fixed32(bits)) => piece.score = f64::from(f32::from_bits(bits)),
            (3, Value::Varint(kind)) => piece.kind = kind,
            _ => {}
        }
    }
    if !piece.score.is_finite() {
        return Err(format!("the score of its piece {:?} is {}", piece.text, piece.score));
    }
    Ok(piece)
}

/// A field's value, of protobuf's four wire types.
enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
    Fixed64,
}

/// The fields of a message, by number; the first damage ends them.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<(u64, Value<'a>), String> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Value::Fixed32(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            wire => return Err(format!("it is not a protobuf message: wire type {wire}")),
        };
        match tag >> 3 {
            0 => Err("it is not a protobuf message: field number 0".into()),
            number => Ok((number, value)),
        }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let left = self.0.len();
        let split = usize::try_from(length).ok().and_then(|length| self.0.split_at_checked(length));
        let (taken, rest) = split
            .ok_or_else(|| format!("it is cut off: a field has {length} bytes, {left} are left"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in 0..10 {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7F) << (7 * shift);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("it is not a protobuf message: a number of more than 64 bits".into())
    }
}
