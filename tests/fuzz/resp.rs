//! Requests in the Redis protocol, as they come in pieces.

use counter_node::resp::read_requests;

/// However the bytes are cut, the requests in them are the same, and so is what is wrong with them.
pub(crate) fn requests(bytes: &[u8]) {
    let Some((piece, stream)) = bytes.split_first() else { return };
    let whole = read_requests(stream, stream.len().max(1));
    let cut = read_requests(stream, usize::from(*piece).max(1));
    assert_eq!(cut, whole, "in pieces of {piece} bytes");
}

pub(crate) fn request_seeds() -> Vec<Vec<u8>> {
    let streams: [&[u8]; 6] = [
        b"*2\r\n$4\r\nINCR\r\n$1\r\na\r\n*3\r\n$6\r\nINCRBY\r\n$1\r\na\r\n$2\r\n-7\r\n",
        b"*4\r\n$4\r\nINCR\r\n$1\r\na\r\n$5\r\nTOKEN\r\n$15\r\n1900000000000-a\r\n",
        b"PING\r\nSET \"a b\" 'c'\r\n",
        b"*0\r\n*-1\r\n*1\r\n$0\r\n\r\n",
        b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n",
        b"*1\r\n$4\r\nQUIT\r",
    ];
    streams.into_iter().map(|stream| [&[3], stream].concat()).collect()
}
