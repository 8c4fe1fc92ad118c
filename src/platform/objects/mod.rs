//! Where objects go: buckets that speak S3's protocol (S3, R2, MinIO, Ceph, and Google with words of its
//! own), and folders of this host.

pub mod sign;
pub mod xml;
pub mod object;
pub mod bucket;
pub mod multipart;
pub mod folder;
pub mod store;
